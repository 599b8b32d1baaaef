"""The fault kit: its faults, and no effect without them."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import Gate, SwitchRunner, functions, make_node, request, settle_down

from nodekit import (
    Container,
    ContainerFailed,
    ContainerRunner,
    EmbeddedStore,
    Job,
    JobQuery,
    JobStatus,
    JobStore,
    JobTable,
    Node,
    Outcome,
    Step,
    StoreFailed,
    SystemClock,
)
from nodekit.testing import (
    ContainerRunnerContract,
    Crashed,
    Faults,
    JobStoreContract,
    JobTableContract,
    Moment,
    Point,
    VirtualClock,
    make_job,
    make_step,
    succeeded,
    with_output,
)
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteTable

pytestmark = pytest.mark.anyio

FULL = StoreFailed("the disk is full")
at_each_moment = pytest.mark.parametrize("moment", ["before", "during", "after"])


@pytest.fixture
def faults() -> Faults:
    return Faults()


# -- without faults: on one event loop, as what is wrapped is tested on both ------------------------


class TestTableWithoutFaults(JobTableContract):
    backends = ("asyncio",)

    @pytest.fixture
    async def table(self, faults: Faults) -> AsyncIterator[JobTable]:
        async with faults.around(MemoryTable()) as table:
            yield table


class TestStoreWithoutFaults(JobStoreContract):
    backends = ("asyncio",)
    quiet_seconds = 0.02

    @pytest.fixture
    async def store(self, faults: Faults) -> AsyncIterator[JobStore]:
        async with faults.around(EmbeddedStore(faults.around(MemoryTable()))) as store:
            yield store


class TestRunnerWithoutFaults(ContainerRunnerContract):
    backends = ("asyncio",)
    opaque = False

    @pytest.fixture
    def runner(self, faults: Faults) -> ContainerRunner:
        return faults.around(functions(fail=broken, slow=endless))


async def broken(data: Any) -> Any:
    raise ContainerFailed("status", "broken", status=500)


async def endless(data: Any) -> Any:
    await anyio.sleep_forever()


class Streaming:
    """A component with more than the required methods."""

    concurrency = 3

    def __init__(self) -> None:
        self.containers = {"echo": Container(id="echo")}
        self.seen: list[str] = []

    async def warm(self, name: str) -> str:
        self.seen.append(name)
        return name

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in (b"a", b"b", b"c"):
                yield piece

        yield (generator := pieces())
        await generator.aclose()  # type: ignore[attr-defined]


async def test_what_else_a_part_can_do_passes_through(faults: Faults) -> None:
    runner = faults.around(Streaming())
    assert (runner.concurrency, list(runner.containers)) == (3, ["echo"])
    assert not hasattr(faults.around(SwitchRunner()), "stream")
    assert await runner.warm("a") == "a"
    async with runner.stream(make_step("echo")) as pieces:
        assert [piece async for piece in pieces] == [b"a", b"b", b"c"]


async def test_methods_that_no_interface_names_have_faults_too(faults: Faults) -> None:
    runner = faults.around(Streaming())
    faults.before("warm").fail(FULL)
    with pytest.raises(StoreFailed):
        await runner.warm("a")
    assert runner.seen == []


async def test_a_stream_fails_where_it_is_told_to(faults: Faults) -> None:
    runner = faults.around(Streaming())
    faults.before("stream", 1).fail(ContainerFailed("connection", "refused"))
    faults.before("stream.next", 3).fail(ContainerFailed("connection", "cut off"))
    with pytest.raises(ContainerFailed, match="refused"):
        async with runner.stream(make_step("echo")):
            pass
    async with runner.stream(make_step("echo")) as pieces:
        assert [await anext(pieces), await anext(pieces)] == [b"a", b"b"]
        with pytest.raises(ContainerFailed, match="cut off"):
            await anext(pieces)


# -- which calls -----------------------------------------------------------------------------------


async def adds(table: JobTable, count: int) -> list[bool]:
    """Add `count` jobs; return for each whether it succeeded."""
    outcomes: list[bool] = []
    for _ in range(count):
        try:
            await table.add([make_job()])
            outcomes.append(True)
        except StoreFailed:
            outcomes.append(False)
    return outcomes


@pytest.mark.parametrize(
    ("numbers", "outcomes"),
    [((2,), [True, False, True, True]), ((1, 3), [False, True, False, True]), ((), [False] * 4)],
)
async def test_numbers_choose_calls_and_none_chooses_every_call_until_faults_are_lifted(
    faults: Faults, numbers: Sequence[int], outcomes: Sequence[bool]
) -> None:
    table = faults.around(MemoryTable())
    fault = faults.before("add", *numbers).fail(FULL)
    assert await adds(table, 4) == outcomes
    assert fault.times == outcomes.count(False)
    faults.lift()
    assert await adds(table, 3) == [True] * 3


async def test_calls_are_counted_from_when_the_fault_was_planned(faults: Faults) -> None:
    table = faults.around(MemoryTable())
    assert await adds(table, 2) == [True, True]
    faults.before("add", 1).fail(FULL)
    assert await adds(table, 2) == [False, True]


async def test_a_condition_chooses_calls_by_their_arguments(faults: Faults) -> None:
    runner = faults.around(functions(other=endless))
    failure = ContainerFailed("connection", "refused")
    faults.before("run", 2, where=lambda step: step.container == "echo").fail(failure)
    with anyio.move_on_after(0.01):
        await runner.run(make_step("other"))
    assert (await runner.run(make_step("echo", {"a": 1}))).value == {"a": 1}
    with pytest.raises(ContainerFailed, match="refused"):
        await runner.run(make_step("echo"))


async def test_a_call_that_cannot_be_is_refused(faults: Faults) -> None:
    with pytest.raises(ValueError, match="the calls of save are counted from 1, got 0"):
        faults.before("save", 0)


async def test_what_was_called_is_recorded_and_makes_points(faults: Faults) -> None:
    table = faults.around(MemoryTable())
    await table.add([job := make_job()])
    await table.get([job.id])
    await table.save(succeeded(job))
    await table.add([])
    assert [(call.method, call.number) for call in faults.calls] == [("add", 1), ("get", 1), ("save", 1), ("add", 2)]
    assert faults.calls[1].args == ([job.id],)
    assert (faults.count("add"), faults.count("delete")) == (2, 0)
    assert [str(point) for point in faults.points("save", "add")] == [
        "before add 1", "after add 1", "before save 1", "after save 1", "before add 2", "after add 2",
    ]  # fmt: skip
    assert faults.points("get", moments=["during"]) == [Point("during", "get", 1)]


# -- what happens ----------------------------------------------------------------------------------


@at_each_moment
async def test_a_failure_before_a_call_leaves_it_undone_and_one_after_it_loses_the_answer(
    faults: Faults, moment: Moment
) -> None:
    table = MemoryTable()
    faults.at(Point(moment, "add", 1)).fail(FULL)
    with pytest.raises(StoreFailed) as raised:
        await faults.around(table).add([job := make_job()])
    assert raised.value is FULL
    assert await table.get([job.id]) == ([] if moment == "before" else [job])


async def test_a_failure_during_a_call_gives_it_up(faults: Faults) -> None:
    begun: list[Any] = []
    ended: list[Any] = []

    async def slow(data: Any) -> Any:
        begun.append(data)
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(data)

    runner = faults.around(functions(slow=slow))
    faults.during("run", 1).fail(ContainerFailed("connection", "reset"))
    with pytest.raises(ContainerFailed, match="reset"):
        await runner.run(make_step("slow", {"a": 1}))
    assert begun == ended == [{"a": 1}]


async def test_an_error_of_the_call_itself_passes_as_it_is(faults: Faults) -> None:
    runner = faults.around(functions(fail=broken))
    faults.during("run", 1).delay(0.01)
    faults.after("run").fail(FULL)
    for _ in range(2):
        with pytest.raises(ContainerFailed, match="broken"):
            await runner.run(make_step("fail"))


async def add_one(table: JobTable, kept: list[Job]) -> None:
    kept.extend(await table.add([make_job()]))


@at_each_moment
async def test_a_delay_takes_its_time_and_no_more(faults: Faults, moment: Moment, clock: VirtualClock) -> None:
    faults.at(Point(moment, "add", 1)).delay(60)
    kept: list[Job] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(add_one, faults.around(MemoryTable()), kept)
        await clock.advance(59)
        assert kept == []
        await clock.advance(2)
        assert len(kept) == 1


@at_each_moment
async def test_a_call_hangs_until_faults_are_lifted(faults: Faults, moment: Moment) -> None:
    hung = faults.at(Point(moment, "add", 1)).hang()
    kept: list[Job] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(add_one, faults.around(MemoryTable()), kept)
        await hung.happened()
        await settle_down()
        assert kept == []
        faults.lift()
    assert len(kept) == 1


async def test_a_hanging_call_can_be_cancelled(faults: Faults) -> None:
    hung = faults.before("run").hang()
    runner = faults.around(functions())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, make_step("echo"))
        await hung.happened()
        tasks.cancel_scope.cancel()
    assert hung.times == 1


# -- crashes ---------------------------------------------------------------------------------------


@at_each_moment
async def test_after_a_crash_nothing_reaches_any_part(faults: Faults, moment: Moment) -> None:
    inner, other = MemoryTable(), MemoryTable()
    table, store = faults.around(inner), faults.around(other)
    faults.at(Point(moment, "save", 1)).crash()
    await table.add([job := make_job()])
    with pytest.raises(Crashed):
        await table.save(done := succeeded(job))
    assert faults.crashed
    for call in (
        table.add([make_job()]),
        table.save(with_output(job)),
        table.find(JobQuery(limit=1)),
        store.add([make_job()]),
    ):
        with pytest.raises(Crashed):
            await call
    assert await inner.find(JobQuery(limit=9)) == [job.id]
    assert await inner.get([job.id]) == [job if moment == "before" else done]
    assert await other.find(JobQuery(limit=9)) == []
    assert faults.count("save") == 1, "a call after the crash was recorded"


@pytest.mark.parametrize("call", ["hangs", "works", "fails"])
async def test_a_call_that_is_under_way_at_the_crash_gets_no_answer(faults: Faults, call: str) -> None:
    gate = Gate()

    async def slow(data: Any) -> Any:
        await gate(data)
        return await broken(data) if call == "fails" else data

    runner = faults.around(functions(slow=slow))
    if call == "hangs":
        faults.after("run").hang()
        gate.opened.set()
    answers: list[Any] = []

    async def run() -> None:
        with pytest.raises(Crashed):
            answers.append(await runner.run(make_step("slow")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await settle_down()
        with pytest.raises(Crashed):
            faults.crash()
        gate.opened.set()
    assert (gate.calls, answers) == (1, [])


async def test_a_crash_raises_behind_shields(faults: Faults) -> None:
    faults.before("add", 1).crash()
    hung = faults.before("save", 1).hang()
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.pending)
            with pytest.raises(Crashed):
                await store.add([make_job()])
            with pytest.raises(Crashed):
                await store.settle("an id", Outcome(JobStatus.CANCELLED), client=None)
    assert hung.times == 0


async def test_leaving_after_a_crash_lets_go_of_what_the_part_holds(faults: Faults, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    faults.before("add", 1).crash()
    with pytest.raises(Crashed):
        async with faults.around(SqliteTable(path)) as table:
            await table.add([make_job()])
    again = Faults()
    again.after("enter", 1).crash()
    with pytest.raises(Crashed):
        async with again.around(SqliteTable(path)):
            pass
    async with SqliteTable(path) as table:
        assert await table.find(JobQuery(limit=1)) == []


# -- a node with faults ----------------------------------------------------------------------------


def node_with(faults: Faults, table: JobTable, **settings: Any) -> Node:
    return make_node(faults.around(functions(slow=endless)), store=EmbeddedStore(faults.around(table)), **settings)


async def test_run_answers_what_was_done(faults: Faults) -> None:
    async def use(node: Node) -> JobStatus:
        job = await node.submit(request(n=1))
        return (await node.wait([job.id]))[0].status

    assert await faults.run(node_with(faults, MemoryTable()), use) is JobStatus.SUCCESS


async def test_run_ends_with_the_crash_wherever_the_clients_are(faults: Faults) -> None:
    async def use(node: Node) -> str:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(node.submit, request("slow"))
        await node.wait(await node.find())
        return "not reached"

    table = MemoryTable()
    faults.during("run", 2).crash()
    assert await faults.run(node_with(faults, table, drain_seconds=1000), use) is None
    assert faults.crashed
    assert [job.status for job in await table.get(await table.find(JobQuery(limit=9)))] == [JobStatus.ACCEPTED] * 3


@pytest.mark.parametrize("call", ["unfinished", "pending", "changes", "find", "claim"])
async def test_run_ends_with_a_crash_at_the_start_and_of_a_whole_store(faults: Faults, call: str) -> None:
    async def use(node: Node) -> None:
        await node.wait([(await node.submit(request("slow"))).id])

    faults.before(call, 1).crash()
    store = faults.around(EmbeddedStore(faults.around(MemoryTable())))
    await faults.run(make_node(functions(slow=endless), store=store), use)
    assert faults.crashed


@pytest.mark.parametrize("group", [False, True])
async def test_errors_of_the_test_itself_come_out_of_run(faults: Faults, group: bool) -> None:
    async def fail() -> None:
        raise AssertionError("wrong")

    async def use(node: Node) -> None:
        if not group:
            await fail()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.submit, request())
            tasks.start_soon(fail)

    if group:
        faults.before("add").crash()
    with pytest.raises(ExceptionGroup if group else AssertionError) as raised:
        await faults.run(node_with(faults, MemoryTable()), use)
    assert not group or raised.group_contains(AssertionError, match="wrong")


async def test_a_result_is_kept_once_the_disk_has_room_again(faults: Faults) -> None:
    async def use(node: Node) -> None:
        job = await node.submit(request(n=1))
        with VirtualClock() as clock:
            for _ in range(3):
                await clock.advance(10)
            assert full.times == 3
            assert (await node.wait([job.id]))[0].status is JobStatus.SUCCESS

    full = faults.before("save", 1, 2, 3).fail(FULL)
    await faults.run(node_with(faults, MemoryTable()), use)


# -- the clock -------------------------------------------------------------------------------------


async def sleeping(seconds: float, woken: list[float]) -> None:
    await anyio.sleep(seconds)
    woken.append(seconds)


async def test_an_hour_passes_at_once(clock: VirtualClock) -> None:
    woken: list[float] = []
    before, monotonic = time.time(), time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleeping, 3600, woken)
        tasks.start_soon(sleeping, 9000, woken)
        await clock.advance(3500)
        assert woken == []
        await clock.advance(101)
        assert woken == [3600]
        await clock.advance(5400)
        assert woken == [3600, 9000]
    assert time.time() - before == pytest.approx(9001, abs=60)
    assert time.monotonic() - monotonic == pytest.approx(9001, abs=60)
    assert time.time_ns() / 1e9 - before == pytest.approx(9001, abs=60)
    assert time.monotonic_ns() / 1e9 - monotonic == pytest.approx(9001, abs=60)


async def test_time_limits_end_with_the_time_that_passes(clock: VirtualClock) -> None:
    with anyio.move_on_after(60) as scope:
        await clock.advance(61)
        await anyio.sleep(0)
    assert scope.cancelled_caught


@pytest.mark.parametrize("seconds", [86400, -86400])
async def test_a_jump_moves_the_wall_clock_alone(clock: VirtualClock, seconds: float) -> None:
    woken: list[float] = []
    before, monotonic = time.time(), time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleeping, 3600, woken)
        await settle_down()
        clock.jump(seconds)
        await settle_down()
        assert woken == []
        tasks.cancel_scope.cancel()
    assert time.time() - before == pytest.approx(seconds, abs=60)
    assert time.monotonic() - monotonic == pytest.approx(0, abs=60)


async def test_time_flows_while_it_is_virtual(clock: VirtualClock) -> None:
    await clock.advance(3600)
    before = time.monotonic()
    await anyio.sleep(0.01)
    assert 0.01 <= time.monotonic() - before < 60


async def test_threads_work_while_time_is_virtual(clock: VirtualClock, tmp_path: Path) -> None:
    job = make_job()
    async with SqliteTable(tmp_path / "jobs.db") as table:
        await table.add([job])
        await clock.advance(3600)
        clock.jump(-7200)
        assert await table.get([job.id]) == [job]
        assert await anyio.to_thread.run_sync(lambda: "done") == "done"


async def test_leaving_puts_everything_back() -> None:
    functions = [time.time, time.time_ns, time.monotonic, time.monotonic_ns]
    before = time.time(), time.monotonic(), anyio.current_time()
    with VirtualClock() as outer:
        await outer.advance(1000)
        with VirtualClock() as inner:
            await inner.advance(5000)
            assert anyio.current_time() - before[2] == pytest.approx(6000, abs=60)
        assert anyio.current_time() - before[2] == pytest.approx(1000, abs=60)
        assert time.time() - before[0] == pytest.approx(1000, abs=60)
    assert [time.time, time.time_ns, time.monotonic, time.monotonic_ns] == functions
    assert (time.time(), time.monotonic(), anyio.current_time()) == pytest.approx(before, abs=60)


async def test_a_clock_made_meanwhile_is_moved_and_put_back_and_an_earlier_one_is_not() -> None:
    earlier = SystemClock()
    with VirtualClock() as clock:
        own = SystemClock()
        await clock.advance(5000)
        assert own.time() - earlier.time() == pytest.approx(5000, abs=60)
        assert own.monotonic() - earlier.monotonic() == pytest.approx(5000, abs=60)
    assert own.time() == pytest.approx(earlier.time(), abs=60)
    assert own.monotonic() == pytest.approx(earlier.monotonic(), abs=60)


async def test_time_that_cannot_be_moved_is_an_error() -> None:
    clock = VirtualClock()
    with pytest.raises(RuntimeError, match="not entered"):
        clock.jump(1)
    with clock, pytest.raises(ValueError, match="backwards"):
        await clock.advance(-1)


def test_a_loop_with_a_clock_of_its_own_is_an_error(anyio_backend: str) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("trio has no other loop")

    async def main() -> None:
        with VirtualClock() as clock:
            await clock.advance(1)

    with pytest.raises(RuntimeError, match="a clock of its own"):
        anyio.run(main, backend_options={"use_uvloop": True})
