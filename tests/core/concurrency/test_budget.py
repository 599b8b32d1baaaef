"""The budget of bytes: who gets room, who waits, and who may overdraw."""

import anyio
import pytest

from nodekit import Budget, Reservation, Unavailable, reserve_output
from nodekit.concurrency import budget as module
from nodekit.concurrency.budget import COPIES, current

pytestmark = pytest.mark.anyio


@pytest.fixture
def budget() -> Budget:
    return Budget(100)


class Turns:
    """Reservations that grow in tasks, and the order in which they got room."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self.done: list[str] = []

    async def ask(self, name: str, one: Reservation, size: int) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def grow() -> None:
            with scope:
                await one.grow(size)
                self.done.append(name)

        self._tasks.start_soon(grow)
        await anyio.wait_all_tasks_blocked()
        return scope

    async def all(self) -> list[str]:
        await anyio.wait_all_tasks_blocked()
        return self.done


async def test_room_is_taken_at_once_and_given_back(budget: Budget) -> None:
    with budget.reservation() as one, budget.reservation() as other:
        await one.grow(60)
        await other.grow(40)
        assert (budget.reserved, one.bytes, other.bytes) == (100, 60, 40)
        one.shrink(10)
        other.resize(45)
        assert budget.reserved == 95
    assert budget.reserved == 0


async def test_who_comes_first_gets_room_first(budget: Budget) -> None:
    held, large, small = (budget.reservation() for _ in range(3))
    await held.grow(90)
    async with anyio.create_task_group() as tasks:
        turns = Turns(tasks)
        await turns.ask("large", large, 50)
        await turns.ask("small", small, 5)
        assert (turns.done, budget.waiting) == ([], 2)
        held.shrink(30)
        assert await turns.all() == []
        held.shrink(10)
        assert await turns.all() == ["large"]
        held.release()
        assert await turns.all() == ["large", "small"]
    assert (budget.reserved, budget.waiting) == (55, 0)


async def test_who_gives_up_leaves_the_queue_and_holds_nothing(budget: Budget) -> None:
    held, large, small = (budget.reservation() for _ in range(3))
    await held.grow(90)
    async with anyio.create_task_group() as tasks:
        turns = Turns(tasks)
        waits = await turns.ask("large", large, 50)
        await turns.ask("small", small, 5)
        waits.cancel()
        assert await turns.all() == ["small"]
        waits = await turns.ask("large", large, 50)
        held.release()  # granted and cancelled in the same turn
        waits.cancel()
        await turns.all()
    small.release()
    large.release()
    assert (budget.reserved, budget.waiting) == (0, 0)


async def test_the_requests_of_a_group_have_their_share_and_others_do_not_wait_behind_them(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_SHARE", 0)
    greedy, more, other = (budget.for_request(group) for group in "aab")
    await greedy.grow(25)
    async with anyio.create_task_group() as tasks:
        turns = Turns(tasks)
        await turns.ask("a", more, 1)
        await turns.ask("b", other, 20)
        await turns.ask("job of a", budget.for_job("a"), 50)
        assert turns.done == ["b", "job of a"]
        greedy.shrink(1)
        assert await turns.all() == ["b", "job of a", "a"]


async def test_in_a_small_budget_a_group_has_room_for_one_request(budget: Budget) -> None:
    with budget.for_request("a") as one:
        for _ in range(10):
            await one.grow(10)
    assert budget.reserved == 0


async def test_one_job_at_a_time_has_more_than_the_share_of_its_group(budget: Budget) -> None:
    first, second, other = (budget.for_job(group) for group in "aab")
    await first.grow(30)
    await second.grow(20)
    assert budget.has_its_share("a")
    async with anyio.create_task_group() as tasks:
        turns = Turns(tasks)
        await turns.ask("first", first, 10)
        await turns.ask("second", second, 10)
        await turns.ask("other", other, 20)
        assert turns.done == ["first", "other"]
        first.release()
        assert await turns.all() == ["first", "other", "second"]
    assert not budget.has_its_share("a")


async def test_one_at_a_time_may_overdraw(budget: Budget) -> None:
    first, second = (budget.for_job(group) for group in "ab")
    request = budget.reservation()
    await first.grow(50)
    await second.grow(50)
    async with anyio.create_task_group() as tasks:
        turns = Turns(tasks)
        await turns.ask("first", first, 30)
        await turns.ask("second", second, 30)
        await turns.ask("request", request, 10)
        await turns.ask("first again", first, 20)
        assert turns.done == ["first", "first again"]
        first.release()
        assert {*await turns.all()} == {"first", "first again", "second", "request"}
        assert budget.reserved == 90


async def test_what_is_larger_than_the_budget_gets_room_once_nothing_else_is_there(budget: Budget) -> None:
    held, huge = budget.reservation(), budget.for_request("a")
    await held.grow(1)
    async with anyio.create_task_group() as tasks:
        turns = Turns(tasks)
        await turns.ask("huge", huge, 500)
        assert turns.done == []
        held.release()
        assert await turns.all() == ["huge"]


async def test_a_request_does_not_wait_for_ever(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    held, request = budget.reservation(), budget.for_request("a")
    await held.grow(100)
    with pytest.raises(Unavailable, match="no memory") as raised:
        await request.grow_soon(1)
    assert raised.value.retry_after_seconds > 0
    held.release()
    await request.grow_soon(1)
    assert budget.reserved == 1


async def test_a_runner_reserves_for_the_job_that_it_runs(budget: Budget) -> None:
    await reserve_output(1000)  # outside of a step
    with budget.for_job("a") as one:
        before = current.set(one)
        await reserve_output(10)
        current.reset(before)
        assert one.bytes == COPIES * 10
