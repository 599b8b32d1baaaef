"""The log in a file: the same lines, a bounded size, and no harm where it cannot be written."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from components import until
from node_files import write
from planted import nodekit
from served import serve

from nodekit.cli.serve.log import LONGEST_RECORD, LogFile, LogFormatter
from nodekit.config.compose import LogSettings

NODE = """
[log]
path = "{path}"

[store]
use = "memory"

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def logging_to(path: Path, *, max_file_bytes: int = 1000, backups: int = 2) -> Iterator[logging.Logger]:
    handler = LogFile(LogSettings(path=path, max_file_bytes=max_file_bytes, backups=backups))
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        handler.close()


def sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


@pytest.mark.anyio
async def test_sighup_opens_a_log_file_anew_that_was_moved_away(tmp_path: Path) -> None:
    log, moved = tmp_path / "node.log", tmp_path / "node.log.old"
    async with serve(write(tmp_path, NODE.format(path=log))) as (served, _):
        log.rename(moved)
        served.signal(signal.SIGHUP)
        await until(log.exists)
        assert "SIGHUP" in log.read_text()
        assert "SIGHUP" not in moved.read_text()


def test_files_stay_within_their_size_and_the_newest_backups_are_kept(tmp_path: Path) -> None:
    with logging_to(tmp_path / "node.log") as logger:
        for number in range(1000):
            logger.info("line %d", number)
    found = sizes(tmp_path)
    assert list(found) == ["node.log", "node.log.1", "node.log.2"]
    assert max(found.values()) <= 1000
    lines = "".join((tmp_path / name).read_text() for name in ("node.log.2", "node.log.1", "node.log")).splitlines()
    assert lines == [f"line {number}" for number in range(1000 - len(lines), 1000)]


def test_without_backups_the_file_begins_anew(tmp_path: Path) -> None:
    with logging_to(tmp_path / "node.log", backups=0) as logger:
        for number in range(1000):
            logger.info("line %d", number)
    assert list(found := sizes(tmp_path)) == ["node.log"]
    assert found["node.log"] <= 1000
    assert (tmp_path / "node.log").read_text().splitlines()[-1] == "line 999"


def test_0_bytes_are_no_limit(tmp_path: Path) -> None:
    with logging_to(tmp_path / "node.log", max_file_bytes=0) as logger:
        for number in range(1000):
            logger.info("line %d", number)
    assert len((tmp_path / "node.log").read_text().splitlines()) == 1000


def test_what_was_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "node.log").write_text("of yesterday\n")
    with logging_to(tmp_path / "node.log") as logger:
        logger.info("of today")
    assert (tmp_path / "node.log").read_text() == "of yesterday\nof today\n"


def test_a_full_disk_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(Path("/dev/full")) as logger:
        for number in range(1000):
            logger.info("line %d %s", number, "x" * 1000)
    said = capsys.readouterr().err
    assert said == (
        "nodekit: the log file /dev/full cannot be written: No space left on device; the log goes on here\n"
    )


def test_a_folder_that_is_made_later_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / "later" / "node.log") as logger:
        logger.info("lost")
        (tmp_path / "later").mkdir()
        logger.info("kept")
    assert capsys.readouterr().err.count("cannot be written: No such file or directory") == 1
    assert (tmp_path / "later" / "node.log").read_text() == "kept\n"


def test_a_line_that_cannot_be_made_is_not_taken_for_a_broken_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(tmp_path / "node.log") as logger:
        logger.info("%d", "no number")
        logger.info("after it")
    assert "cannot be written" not in capsys.readouterr().err
    assert (tmp_path / "node.log").read_text() == "after it\n"


@pytest.mark.parametrize("backups", [0, 2])
def test_others_cannot_read_the_files(tmp_path: Path, backups: int) -> None:
    before = os.umask(0)
    try:
        with logging_to(tmp_path / "node.log", backups=backups) as logger:
            for number in range(1000):
                logger.info("line %d", number)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}


# -- text of others -----------------------------------------------------------------------------------

FORGED = "x\x1b[2J\n2026-01-01 00:00:00,000 INFO    nodekit: all is well\r\u202e\u2028\x9b"


def formatted(text: str, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("nodekit.http", logging.ERROR, "", 0, "GET %s failed", (text,), info)
    return LogFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s").format(record)


def test_text_of_others_neither_commands_a_terminal_nor_forges_a_record() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        first, *others = formatted(FORGED, error).split("\n")
    assert first.endswith("ERROR   nodekit.http: GET x\\x1b[2J")
    assert "ValueError: x\\x1b[2J" in "".join(others)
    assert all(line.startswith("  | ") for line in others)
    assert all(line.isprintable() for line in (first, *others))


def test_a_record_has_a_longest_length() -> None:
    text = formatted("y" * 1_000_000)
    assert len(text) < LONGEST_RECORD + 100
    assert text.endswith("more characters)")


# -- nodekit serve ------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_serve_writes_the_lines_of_standard_error_to_a_file_beside_the_node_file(tmp_path: Path) -> None:
    async with serve(write(tmp_path, NODE.format(path="own.log"))) as (served, _):
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        lines = (tmp_path / "own.log").read_text().splitlines()
        assert "draining" in "".join(lines)
        assert lines == served.log.splitlines()


@pytest.mark.anyio
async def test_a_log_that_cannot_be_written_does_not_stop_the_node(tmp_path: Path) -> None:
    async with serve(write(tmp_path, NODE.format(path="/dev/full"))) as (served, api):
        assert (await api.get("/health")).status == 200
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        assert served.log.count("cannot be written") == 1
        assert "draining" in served.log
        assert "Traceback" not in served.log


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[store]", "max_file_bites = 5\n[store]", "log.max_file_bites: unknown key; did you mean 'max_file_bytes'?"),
        ("own.log", "own\\u0000.log", "log.path: the name of a file cannot contain a NUL"),
    ],
)
def test_check_says_what_is_wrong_and_writes_no_log(tmp_path: Path, old: str, new: str, words: str) -> None:
    good = NODE.format(path="own.log")
    assert nodekit(tmp_path, "check", write(tmp_path, good)).returncode == 0
    done = nodekit(tmp_path, "check", write(tmp_path, good.replace(old, new)))
    assert (done.returncode, words in done.stderr) == (3, True)
    assert os.listdir(tmp_path) == ["node.toml"]
