"""Node files that nobody writes by hand: each gets a clear error that names the file, soon and without a traceback."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from served import nodekit

from nodekit import CompositionError, load_node
from nodekit.config import file_limits

STORE = '[store]\nuse = "memory"\n'
DIGITS = "9" * 5000
MANY = 50_000


def refused(file: Path) -> str:
    with pytest.raises(CompositionError) as raised:
        load_node(file)
    text = str(raised.value)
    assert all(line.isprintable() and len(line) < 3000 for line in text.splitlines())
    return text


TOML: dict[str, tuple[str | bytes, str]] = {
    "deep arrays": ("a = " + "[" * 20_000 + "]" * 20_000, "is nested more than 32 deep"),
    "arrays that are just too deep": (f"{STORE}a = " + "[" * 40 + "]" * 40, "is nested more than 32 deep"),
    "deep tables": ("a = " + "{a = " * 20_000 + "1" + "}" * 20_000, "is nested more than 32 deep"),
    "a key of many parts": (".".join("a" * MANY) + " = 1", "has a key of more than 32 parts in line 1"),
    "a quoted key of many parts": (STORE + '"a".' * MANY + "b = 1", "has a key of more than 32 parts in line 3"),
    "a table of many parts": (STORE + "[" + ".".join("a" * MANY) + "]", "more than 32 parts in line 3"),
    "a spaced key of many parts": ("a . " * MANY + "a = 1", "more than 32 parts in line 1"),
    "many dotted keys": (STORE + "\n".join(f"a.b.c{n} = 1" for n in range(MANY)), "a: unknown key"),
    "many dotted keys of a table": (
        STORE + "[node]\n" + "\n".join(f"a.b.c{n} = 1" for n in range(MANY)),
        "node.a: unknown key",
    ),
    "many tables": (STORE + "\n".join(f"[t{n}]" for n in range(MANY)), "t0: unknown table"),
    "many lists of tables": (STORE + "[[plugins]]\n" * MANY, "plugins[0]: does not say which plugin it is"),
    "many containers": (
        f'{STORE}[[runners]]\nuse = "remote"\n' + '[[runners.containers]]\nid="a"\nurl="http://x"\n' * 15_000,
        "is the id of runners[0].containers[0] already",
    ),
    "many transports": (
        STORE + '[[transports]]\nuse = "asgi"\n' * 5_000,
        "transports[1].bind: 127.0.0.1:4000 is taken",
    ),
    "many unset variables": (
        f"{STORE}[node]\na = [" + ",".join(f'"${{NODEKIT_UNSET_{n}}}"' for n in range(MANY // 2)) + "]",
        "node.a[0]: environment variable NODEKIT_UNSET_0 is not set",
    ),
    "many tables with a problem": (
        STORE + "\n".join(f"[t{n}]\na = nan" for n in range(MANY)),
        "t0.a: nan is no number",
    ),
    "many bad containers": (
        f'{STORE}[[runners]]\nuse="remote"\n' + '[[runners.containers]]\nid="a"\nurl="x"\nfoo=1\n' * 15_000,
        "runners[0].containers[0].foo: unknown key",
    ),
    "many references without an end": (f'{STORE}[node]\nname = "{"${A:-" * MANY}"', "has ${ without a name"),
    "a number of many digits": (f"{STORE}[node]\nconcurrency = {DIGITS}", "a number of too many digits"),
    "a hexadecimal number of many digits": (f"{STORE}[node]\nconcurrency = 0x{DIGITS}", "the number is too large"),
    "a float of many digits": (f"{STORE}[node]\nconcurrency = {DIGITS}.0", "node.concurrency: expected a whole number"),
    "a huge exponent": (f"{STORE}[node]\ndrain_seconds = 1e{DIGITS}\nmax_pending = 0", "node.max_pending"),
    "nan": (f"{STORE}[node]\ndrain_seconds = nan", "node.drain_seconds: nan is no number"),
    "a list with nan": (f"{STORE}[node]\na = [[1, -nan]]", "node.a[0][1]: nan is no number"),
    "inf for a number of jobs": (f"{STORE}[node]\nconcurrency = inf", "node.concurrency: expected a whole number"),
    "a date": (f"{STORE}[node]\nname = 1979-05-27", "node.name: expected text"),
    "a date that does not exist": (f"{STORE}[node]\nname = 1979-13-45", "node.toml"),
    "a NUL": (STORE.encode() + b'a = "\0"', "is not TOML"),
    "a NUL in a key": ('"a\\u0000b" = 1\n' + STORE, "a\\x00b: unknown table"),
    "half a surrogate pair": (STORE + 'a = "\\ud800"', "is not TOML"),
    "no UTF-8": (STORE.encode() + b"# \xff", "is not UTF-8: byte 0xff in line 3"),
    "UTF-16": (STORE.encode("utf-16"), "is not UTF-8, but UTF-16 or UTF-32; save it as UTF-8"),
    "UTF-16 without a mark": (STORE.encode("utf-16-be"), "is not UTF-8, but UTF-16 or UTF-32"),
    "UTF-32": (STORE.encode("utf-32"), "is not UTF-8, but UTF-16 or UTF-32"),
    "no UTF-8 behind a mark": (b"\xef\xbb\xbf# \xe9\n", "is not UTF-8: byte 0xe9 in line 1"),
    "a mark in the middle": ("#\n\ufeff[store]\n", "is not TOML"),
    "only NULs": (b"\0" * 4096, "is not TOML"),
    "a long key": (f"{STORE}{'k' * 500_000} = 1", "unknown"),
    "a long text": (f'[store]\nuse = "{"x" * 500_000}"', "store.use: "),
    "a text that acts on terminals": ('[store]\nuse = "\\u001b[2J\\u0007"', "store.use: "),
    "a text without an end": (f'{STORE}a = "' + '\\"' * 200_000, "is not TOML"),
    "long texts without an end": (f"{STORE}a = '''" + "'\"" * 200_000, "is not TOML"),
    "a long name before a bracket": (f"{STORE}{'a' * 500_000} = 1.[", "is not TOML"),
    "a long table without an end": (f"{STORE}[{'a.' * 20}{'a' * 500_000}", "is not TOML"),
    "many quotes": (STORE + '"' * 500_000, "is not TOML"),
    "many comments": ("#." * 250_000 + "\na = 1\n" + STORE, "a: unknown table"),
    "too many bytes": ("#" * (1 << 20) + "\n" + STORE, "is larger than 1048576 bytes"),
    "a secret of endless bytes": (
        f'{STORE}[[runners]]\nuse="remote"\n[[runners.containers]]\nid="a"\nurl="http://x"\nbearer={{file="/dev/zero"}}',
        "cannot read the secret: /dev/zero: it is a device, not a file",
    ),
    "a secret with a NUL in its name": (
        f'{STORE}[[runners]]\nuse="remote"\n[[runners.containers]]\nid="a"\nurl="http://x"\nbearer={{file="a\\u0000"}}',
        "cannot read the secret",
    ),
}


@pytest.mark.parametrize("name", TOML)
@pytest.mark.timeout(60)
def test_a_toml_file_gets_a_clear_error(name: str, tmp_path: Path) -> None:
    text, expected = TOML[name]
    file = tmp_path / "node.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert expected in refused(file)


def _deep(start: str, inner: str, end: str, times: int) -> str:
    return start * times + inner + end * times


JSON: dict[str, tuple[str | bytes, str]] = {
    "deep lists": ('{"a":' + _deep("[", "", "]", 100_000) + "}", "nested too deep"),
    "deep objects": (_deep('{"a":', "1", "}", 100_000), "nested too deep"),
    "a number of many digits": (f'{{"server":{{"port":{DIGITS}}}}}', "a whole number of more than 100 digits"),
    "nan": ('{"startup_wait":NaN}', "is not JSON"),
    "no UTF-8": (b'{"a":"\xff"}', "is not JSON in UTF-8"),
    "a NUL": (b'{"a":"\0"}', "is not JSON in UTF-8"),
    "half a surrogate pair": ('{"log":{"path":"\\ud800"}}', "is not JSON in UTF-8"),
    "a huge exponent": ('{"startup_wait":1e99999,"server":{"port":-1}}', "server.port"),
    "too many bytes": ('{"a":"' + "x" * (1 << 20) + '"}', "is larger than 1048576 bytes"),
    "no object": ("[]", "expected an object"),
}


@pytest.mark.parametrize("name", JSON)
@pytest.mark.timeout(60)
def test_a_json_file_gets_a_clear_error(name: str, tmp_path: Path) -> None:
    text, expected = JSON[name]
    file = tmp_path / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert expected in refused(file)


@pytest.mark.parametrize("command", [["check"], ["config", "show"], ["doctor"], ["store", "compact"], ["serve"]])
@pytest.mark.parametrize("name", ["deep arrays", "a number of many digits", "a key of many parts", "no UTF-8"])
def test_commands_show_the_error_and_no_traceback(command: list[str], name: str, tmp_path: Path) -> None:
    text, expected = TOML[name]
    file = tmp_path / "node.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = nodekit(*command, file)
    assert done.returncode != 0
    assert expected in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_many_problems_are_not_all_printed(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(STORE + "[[plugins]]\n" * 500)
    done = nodekit("check", file)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 101
    assert done.stderr.splitlines()[-1] == f"{file}: 400 more problems are not shown; correct these first"


@pytest.mark.parametrize("suffix", ["toml", "json"])
@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused_at_once_in_every_format(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_limits, "PIPE_SECONDS", 0.1)
    pipe, device, folder, address = (tmp_path / f"{name}.{suffix}" for name in ("pipe", "device", "folder", "socket"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        assert "cannot be read: Is a directory" in refused(folder)
        assert "it is a device, not a file" in refused(device)
        assert "cannot be read: it is a pipe" in refused(pipe)
        assert "cannot be read: " in refused(address)
    assert "No such file" in refused(tmp_path / f"nothing.{suffix}")


def test_a_pipe_whose_writer_ends_is_read(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nodekit", "check", "/dev/stdin"],
        check=False,
        input=STORE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "/dev/stdin: ok (0 containers)\n")


def test_a_pipe_of_endless_bytes_is_too_large(tmp_path: Path) -> None:
    command = f"yes '# comment' | {sys.executable} -m nodekit check /dev/stdin"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "is larger than 1048576 bytes" in done.stderr


def test_a_secret_in_a_pipe_without_writer_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_limits, "PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "token")
    file = tmp_path / "node.toml"
    file.write_text(
        f'{STORE}[[runners]]\nuse="remote"\n[[runners.containers]]\nid="a"\nurl="http://x"\nbearer={{file="token"}}'
    )
    assert "it is a pipe whose writer did not finish" in refused(file)


@pytest.mark.parametrize(
    "text", [f"\ufeff{STORE}", STORE.replace("\n", "\r\n"), f"\ufeff{STORE}".replace("\n", "\r\n")]
)
def test_a_mark_of_utf_8_and_the_line_ends_of_windows_are_read(text: str, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(text.encode())
    assert load_node(file).containers == {}


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    os.mkfifo(other := tmp_path / "pipe")
    assert stat.S_ISFIFO(other.stat().st_mode)
    assert f"{file}: cannot be read: No such file" in refused(file)


def test_usual_files_are_still_read(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    text: Any = STORE + "[node]\nqueue_timeout_seconds = inf\n" + "# a.b.c.d " + "x.y." * 100 + "\n"
    text += (
        '[[runners]]\nuse = "remote"\n[[runners.containers]]\nid = "a.b.c"\nurl = "http://127.0.0.1:1/'
        + "a." * 50
        + '"\n'
    )
    text += "[[transports]]\nuse = 'asgi'\ntrusted_proxies = [" + ", ".join(f'"10.0.0.{n}"' for n in range(200)) + "]\n"
    file.write_text(text)
    assert json.dumps(sorted(load_node(file).containers)) == '["a.b.c"]'
