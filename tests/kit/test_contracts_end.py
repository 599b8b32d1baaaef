"""A component that answers without end fails its suite with a message: no test hangs, or fills memory."""

import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream
from msgspec.structs import replace

from nodekit import (
    Change,
    Claim,
    EmbeddedStore,
    JobId,
    JobQuery,
    JobTable,
    Node,
    Step,
    StoreFailed,
)
from nodekit.testing import (
    JobStoreContract,
    JobTableContract,
    StreamingRunnerContract,
    make_job,
    make_node,
    make_step,
    make_table,
)
from nodekit.testing.contracts.bounds import MOST_BYTES
from nodekit.testing.contracts.shared import jobs, leases
from nodekit.testing.contracts.stores.killing import Report, reported_until_killed
from nodekit.testing.contracts.transports.http_client import CutOff, HttpClient, HttpConnection
from nodekit.testing.contracts.transports.served import MOST_PIECES, ToldRunner
from nodekit.testing.store_model.choices import id_of
from nodekit.testing.store_model.expected import Expected
from nodekit.testing.store_model.leaping_clock import LeapingClock
from nodekit.testing.store_model.operations import Operations
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio

MOST_CALLS = 1_000_000
SHORT_SECONDS = 0.2


class Endless(Exception):
    """A broken component was called again and again, and nothing would ever have stopped it."""


class Asked:
    """Counts calls, so that a loop without an end fails its test here instead of hanging."""

    def __init__(self, most: int = MOST_CALLS) -> None:
        self._left = most

    def once(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Endless


# -- pages ----------------------------------------------------------------------------------------


class PagedBadly(MemoryTable):
    """A table whose pages never end."""

    def __init__(self, page: Callable[[list[JobId], JobId | None, int], list[JobId]]) -> None:
        super().__init__()
        self.page = page
        self.asked = Asked(100)

    async def find(self, query: JobQuery) -> list[JobId]:
        self.asked.once()
        return self.page(await super().find(replace(query, after=None, limit=1000)), query.after, query.limit)


def from_the_cursor_on(ids: list[JobId], after: JobId | None, limit: int) -> list[JobId]:
    return [id for id in ids if after is None or id >= after][:limit]


def from_the_beginning(ids: list[JobId], after: JobId | None, limit: int) -> list[JobId]:
    return ids[:limit]


def in_a_circle(ids: list[JobId], after: JobId | None, limit: int) -> list[JobId]:
    start = ids.index(after) + 1 if after in ids else 0
    return (ids + ids)[start : start + limit]


def newest_first(ids: list[JobId], after: JobId | None, limit: int) -> list[JobId]:
    return [id for id in ids[::-1] if after is None or id != after][:limit]


PAGES = [from_the_cursor_on, from_the_beginning, in_a_circle, newest_first]


def with_ids_of_its_own(ids: list[JobId], after: JobId | None, limit: int) -> list[JobId]:
    return [id_of(number) for number in range(int((after or "0")[:8], 16) + 1, 100)][:limit] or [f"{after}0"]


@pytest.mark.parametrize("page", [*PAGES, with_ids_of_its_own])
async def test_pages_without_end_fail_the_suite_of_tables(page: Any) -> None:
    with pytest.raises(AssertionError):
        await JobTableContract().test_find_answers_oldest_first_and_in_pages(PagedBadly(page))


@pytest.mark.parametrize("page", PAGES)
async def test_a_node_does_not_page_without_end_when_it_starts(page: Any) -> None:
    table = PagedBadly(page)
    await table.add([make_job(id=f"ffffffff-0000-7000-8000-00000000000{n}") for n in range(3)])
    with pytest.raises(StoreFailed, match="not behind it"):
        async with make_node(store=EmbeddedStore(table)):
            pass


@pytest.mark.parametrize("page", PAGES)
async def test_who_asks_a_node_for_page_after_page_is_told_that_its_store_is_broken(page: Any) -> None:
    table = PagedBadly(page)
    async with make_node(store=EmbeddedStore(table)) as node:
        for _ in range(3):
            await table.add([make_job()])
        with pytest.raises(StoreFailed, match="not behind it"):
            await _all(node)


async def _all(node: Node) -> None:
    after: JobId | None = None
    while ids := await node.find(JobQuery(after=after, limit=1)):
        after = ids[-1]


# -- claims and changes ---------------------------------------------------------------------------


class AnswersAtOnce(EmbeddedStore):
    """Answers at once: no claims, and changes of an unknown job."""

    def __init__(self, table: JobTable | None = None) -> None:
        super().__init__(table or make_table())
        self.asked = Asked()

    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        self.asked.once()
        return []

    async def claim_expired(self, limit: int) -> list[Claim]:
        self.asked.once()
        return []

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[Change | None]]:
        async def other() -> AsyncIterator[Change | None]:
            while True:
                self.asked.once()
                yield Change("another job")

        yield other()


class Impatient:
    timeout_seconds = SHORT_SECONDS
    lease_seconds = 0.0


class Store(Impatient, JobStoreContract):
    pass


class Leases(Impatient, leases.Leases):
    pass


class Queue(Impatient, jobs.SharedJobs):
    pass


async def _fence(store: Any) -> None:
    with anyio.move_on_after(SHORT_SECONDS):
        await Leases()._finish_all(store, {})
    raise AssertionError("as the suite goes on")


async def _hear(store: Any) -> None:
    expected = Expected()
    expected.changed.add("a job")
    with LeapingClock() as clock:
        async with Operations(clock, AnswersAtOnce, expected, timeout_seconds=SHORT_SECONDS) as trial:
            await trial._compare()


LOOPS: dict[str, Callable[[Any], Any]] = {
    "claims": lambda store: Store().claims(store, 1),
    "expired": lambda store: Store().expired(store, 1),
    "seen": lambda store: _seen(store),  # noqa: PLW0108 - it is below
    "claims at once": lambda store: Store().test_one_job_never_goes_to_two_claims(store),
    "taken over": lambda store: Leases().taken_over(store, make_job()),
    "shared claims": lambda store: Queue().test_a_job_goes_to_one_of_many_claims_at_once([store] * 2),
    "shared expiry": lambda store: Queue().test_each_job_whose_time_is_over_goes_to_one_store([store] * 2),
    "fencing": _fence,
    "the model": _hear,
}


async def _seen(store: Any) -> None:
    async with store.changes() as changes:
        await Store().seen(changes, ["a job"])


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_store_that_answers_without_waiting_fails_its_suite(loop: str) -> None:
    async with AnswersAtOnce() as store:
        with pytest.raises(AssertionError) as raised:
            await LOOPS[loop](store)
    assert str(raised.value)


# -- streams --------------------------------------------------------------------------------------


class Streams(StreamingRunnerContract):
    timeout_seconds = 2.0


class StreamingRunner:
    """A runner that only streams, the same for every step."""

    def __init__(self, pieces: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        self._pieces = pieces

    async def __aenter__(self) -> "StreamingRunner":
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[AsyncIterator[bytes]]:
        async with aclosing(self._pieces()) as pieces:
            yield pieces


@pytest.mark.parametrize("piece", [b"", b"x" * (1 << 16)], ids=["empty", "large"])
@pytest.mark.parametrize("awaits", [False, True], ids=["at once", "awaiting"])
async def test_a_stream_without_end_fails_the_suite_of_runners(piece: bytes, awaits: bool) -> None:
    asked = Asked(2 * MOST_BYTES // (len(piece) or 50))

    async def pieces() -> AsyncGenerator[bytes, None]:
        while True:
            asked.once()
            if awaits:
                await anyio.lowlevel.checkpoint()
            yield piece

    runner: Any = StreamingRunner(pieces)
    with pytest.raises(AssertionError):
        await Streams().streamed(runner, make_step("echo"))


async def test_a_runner_that_gives_no_piece_fails_its_suite() -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        await anyio.sleep_forever()
        yield b""

    class Suite(StreamingRunnerContract):
        timeout_seconds = SHORT_SECONDS

    runner: Any = StreamingRunner(pieces)
    for test in (Suite.test_no_more_is_read_than_is_asked_for, Suite.test_streams_go_on_beside_each_other):
        with anyio.fail_after(20), pytest.raises(AssertionError, match="'endless' gives a piece"):
            await test(Suite(), runner)


# -- transports -----------------------------------------------------------------------------------


class Says(ByteStream):
    """A connection whose peer sends the same again and again."""

    def __init__(self, first: bytes, again: bytes = b"", most: int = 2000) -> None:
        self._first, self._again = first, again
        self._asked = Asked(most)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self._asked.once()
        if first := self._first:
            self._first = b""
            return first
        if not self._again:
            await anyio.sleep_forever()
        return self._again

    async def send(self, item: bytes) -> None:
        return None

    async def send_eof(self) -> None:
        return None

    async def aclose(self) -> None:
        return None


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LARGE = b"x" * (1 << 16)


@pytest.mark.parametrize(
    "stream",
    [
        lambda: Says(CHUNKED, b"10000\r\n" + LARGE + b"\r\n"),
        lambda: Says(CHUNKED, b"1\r\nx\r\n" * 10_000),
        lambda: Says(CHUNKED + b"fffffffff\r\n", LARGE),
        lambda: Says(HEAD + b"\r\n", LARGE),
        lambda: Says(HEAD + b"Content-Length: 99999999999\r\n\r\n", LARGE),
        lambda: Says(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", most=MOST_CALLS),
        lambda: Says(LARGE, LARGE),
        lambda: Says(b""),
        lambda: Says(CHUNKED + b"5\r\nx"),
        lambda: Says(HEAD + b"Content-Length: 5\r\n\r\nx"),
    ],
)
async def test_a_reply_without_end_fails_the_suite_of_transports(
    stream: Callable[[], Says], monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def connected(self: HttpClient, seconds: float | None = None) -> AsyncIterator[HttpConnection]:
        yield HttpConnection(stream(), seconds or self.timeout_seconds)

    monkeypatch.setattr(HttpClient, "connected", connected)
    with pytest.raises((AssertionError, TimeoutError, anyio.DelimiterNotFound, CutOff)):
        await HttpClient("http://localhost:1", timeout_seconds=2).get("/")


@pytest.mark.parametrize("read", ["piece", "answer", "head", "ended", "rest"])
async def test_a_server_that_says_nothing_more_fails_whoever_reads(read: str) -> None:
    connection = HttpConnection(Says(b""), SHORT_SECONDS)
    with anyio.fail_after(20), pytest.raises(AssertionError, match=r"not within 0\.2 s"):
        await getattr(connection, read)()


async def test_what_has_no_end_in_the_suite_of_transports_gives_no_more_than_fits_in_memory() -> None:
    runner, asked = ToldRunner(), Asked(2 * MOST_PIECES)
    with anyio.move_on_after(SHORT_SECONDS):
        async with runner.stream(make_step("pieces", {"pieces": ["∞"]})) as pieces:
            async for _ in pieces:
                asked.once()
    assert runner.given == MOST_PIECES


# -- processes ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_store_that_leaves_a_process_behind_does_not_hold_up_who_kills_it() -> None:
    """The process that is left holds the pipe of the killed one."""

    def live(tell: Report) -> None:
        if (left := os.fork()) == 0:
            while True:
                signal.pause()
        tell(b"%d" % left)
        signal.pause()

    (told,) = reported_until_killed(live, lines=1, seconds=5)
    os.kill(int(told), signal.SIGKILL)
