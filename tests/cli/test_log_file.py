"""The log in a file: the same lines, a bounded size, and no harm where it cannot be written."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from components import PATIENCE_SECONDS, until
from node_files import write
from planted import nodekit
from served import serve

from nodekit.cli.serve.log.line_writer import MOST_LINES, LineWriter
from nodekit.cli.serve.log.log_file import LogFile
from nodekit.cli.serve.log.node_log import LogHandler

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
def logging_to(
    path: Path, *, max_file_bytes: int = 1000, backups: int = 2, said: list[str] | None = None
) -> Iterator[logging.Logger]:
    """Yield a logger to a file. All lines are written at the end."""
    handler = LogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    report = (said if said is not None else []).append
    writer = LineWriter(LogFile(path, max_file_bytes, backups), "the log file", notice=handler.notice, report=report)
    handler.writers.append(writer)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        writer.close()
        writer.wait(time.monotonic() + PATIENCE_SECONDS)


def sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


@pytest.mark.anyio
async def test_sighup_opens_a_log_file_anew_that_was_moved_away(tmp_path: Path) -> None:
    log, moved = tmp_path / "node.log", tmp_path / "node.log.old"
    async with serve(write(tmp_path, NODE.format(path=log))) as (served, _):
        log.rename(moved)
        served.signal(signal.SIGHUP)
        await until(lambda: log.exists() and "SIGHUP" in log.read_text())
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


def test_a_full_disk_is_said_once() -> None:
    said: list[str] = []
    with logging_to(Path("/dev/full"), said=said) as logger:
        for number in range(1000):
            logger.info("line %d %s", number, "x" * 1000)
    assert said == ["the log file cannot be written: No space left on device; the log goes on here"]


@pytest.mark.anyio
async def test_a_folder_that_is_made_later_is_found_and_the_lost_lines_are_counted(tmp_path: Path) -> None:
    said: list[str] = []
    with logging_to(tmp_path / "later" / "node.log", said=said) as logger:
        logger.info("lost")
        await until(lambda: said)
        (tmp_path / "later").mkdir()
        logger.info("kept")
    assert said == ["the log file cannot be written: No such file or directory; the log goes on here"]
    text = "1 line was dropped: the log file could not be written: No such file or directory"
    assert (tmp_path / "later" / "node.log").read_text() == f"kept\n{text}\n"


def test_a_line_that_cannot_be_made_is_replaced_by_the_reason(tmp_path: Path) -> None:
    with logging_to(tmp_path / "node.log") as logger:
        logger.info("%d", "no number")
        logger.info("after it")
    first, second = (tmp_path / "node.log").read_text().splitlines()
    assert first.startswith("a record of test cannot be made from '%d': TypeError: ")
    assert second == "after it"


def test_an_object_without_a_text_raises_nothing(tmp_path: Path) -> None:
    class Mute:
        def __repr__(self) -> str:
            raise ValueError(self)

    with logging_to(tmp_path / "node.log") as logger:
        logger.info(Mute())
        logger.info("%s", Mute())
        logger.info("after it")
    lines = (tmp_path / "node.log").read_text().splitlines()
    assert lines[0] == "a record of test cannot be made: ValueError"
    assert lines[-1] == "after it"


@pytest.mark.anyio
async def test_a_file_that_nobody_opens_at_the_other_end_stops_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "node.log")
    said: list[str] = []
    with logging_to(tmp_path / "node.log", max_file_bytes=0, said=said) as logger:
        for number in range(2 * MOST_LINES):
            logger.info("line %d", number)
        assert len(said) == 1
        assert said[0].startswith("the log file takes no more lines for now")
        reader = os.open(tmp_path / "node.log", os.O_RDONLY | os.O_NONBLOCK)
        data = bytearray()

        def read() -> bool:
            with suppress(BlockingIOError):
                data.extend(os.read(reader, 1 << 20))
            return b"dropped" in data

        await until(read)
        logger.info("after it")
        await until(lambda: read() and b"after it" in data)
        os.close(reader)
    *lines, notice, last = data.decode().splitlines()
    kept = len(lines)
    assert lines == [f"line {number}" for number in range(kept)]
    assert kept >= MOST_LINES
    assert notice == f"{2 * MOST_LINES - kept:,} lines were dropped: the log file was not written in time"
    assert last == "after it"


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
        assert served.log.count("cannot be written: No space left on device; the log goes on here") == 1
        assert "draining" in served.log
        assert "Traceback" not in served.log


@pytest.mark.anyio
async def test_an_audit_log_that_cannot_be_written_is_told_at_the_start_and_opened_again_at_sighup(
    tmp_path: Path,
) -> None:
    text = NODE.format(path="own.log").replace("[store]", 'audit = "audits/audit.log"\n[store]')
    async with serve(write(tmp_path, text)) as (served, _):
        said = f"the log file {tmp_path}/audits/audit.log cannot be written: No such file or directory"
        await until(lambda: said in served.log)
        (tmp_path / "audits").mkdir()
        served.signal(signal.SIGHUP)
        await until((tmp_path / "audits" / "audit.log").is_file)
        served.signal(signal.SIGHUP)
        await until(lambda: served.log.count("SIGHUP") == 2)
        assert served.log.count("cannot be written") == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('own.log"', 'own.log"\nlevel = "loud"', "log.level: unknown value 'loud'"),
        ('own.log"', 'own.log"\naudit = "own.log"', "log.audit: this is the file of the log; write audit = true"),
        ('own.log"', 'own.log"\naudit = 3', "log.audit: expected true or false or text, got a whole number"),
        (
            'own.log"',
            'own.log"\nlevels = { "nodekit.dokcer" = "debug" }',
            "log.levels.nodekit.dokcer: there is no logger 'nodekit.dokcer'; did you mean 'nodekit.docker'?",
        ),
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
