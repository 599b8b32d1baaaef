"""Slots: the maximum number of running steps, in all and per container."""

from nodekit import Container
from nodekit.execution.slots import Slots

CONTAINERS = {
    container.id: container
    for container in (
        Container(id="one", concurrency=1),
        Container(id="two", concurrency=2),
        Container(id="any"),
        Container(id="fast", when_down="fail"),
    )
}


def slots(*running: str, concurrency: int = 10) -> Slots:
    slots = Slots(CONTAINERS, concurrency)
    slots.set_running(set(running))
    return slots


def test_containers_that_do_not_run_are_not_open_unless_they_fail_at_once() -> None:
    assert Slots(CONTAINERS, 10).open == {"fast"}
    assert slots("one", "any").open == {"one", "any", "fast"}
    assert slots("one", "not ours").open == {"one", "fast"}


def test_a_container_that_runs_on_another_node_does_not_fail_at_once_here() -> None:
    some = slots("one")
    assert some.fails_at_once("fast")
    assert some.open == {"one", "fast"}
    some.set_elsewhere({"fast", "two"})
    assert some.open == {"one"}
    assert not some.fails_at_once("fast")
    some.set_running({"fast"})
    assert some.open == {"fast"}
    some.set_elsewhere(set())
    assert some.open == {"fast"}
    assert not some.fails_at_once("two")


def test_a_container_closes_with_its_last_slot_and_opens_again() -> None:
    some = slots("one", "two")
    assert some.take("two")
    assert "two" in some.open
    assert some.take("two")
    assert not some.take("two")
    assert some.open == {"one", "fast"}
    some.give_back("two")
    assert some.take("two")
    assert not some.take("two")


def test_containers_without_any_limit_open_as_they_run() -> None:
    some = Slots({id: Container(id=id) for id in ("a", "b")}, 3)
    assert some.open == frozenset()
    some.set_running({"a"})
    assert some.open == {"a"}
    assert some.at_most == 3


def test_a_container_without_a_limit_never_closes() -> None:
    some = slots("any")
    assert all(some.take("any") for _ in range(1000))


def test_nothing_due_takes_no_slot() -> None:
    some = slots("one")
    assert not some.take(None)
    some.give_back(None)
    assert some.take("one")


def test_a_container_that_went_down_takes_no_step_and_keeps_count() -> None:
    some = slots("two")
    assert some.take("two")
    some.set_running(set())
    assert not some.take("two")
    some.set_running({"two"})
    assert some.take("two")
    assert not some.take("two")


def test_at_most_never_promises_more_than_any_open_container_can_take() -> None:
    assert slots("any", concurrency=7).at_most == 7
    some = slots("one", "two", "any")
    assert some.at_most == 1
    assert some.take("one")
    assert some.at_most == 2
    some.take("two")
    assert some.at_most == 1
    some.take("two")
    assert some.at_most == 10
    some.free = 0
    assert some.at_most == 0


def test_containers_of_a_pool_share_its_slots() -> None:
    pooled = Slots(CONTAINERS, 10, [(["any", "two"], 2)])
    pooled.set_running({"any", "two", "one"})
    assert pooled.at_most == 1  # "one" takes one
    assert pooled.take("any")
    assert pooled.take("two")
    assert pooled.open == {"one", "fast"}
    assert not pooled.take("any")
    assert not pooled.take("two")
    pooled.give_back("any")
    assert pooled.take("two")


def test_a_limit_that_is_set_later_holds_for_its_containers_together() -> None:
    some = slots("one", "two", "any")
    some.limit(["two", "any"], 2)
    assert some.at_most == 1
    assert some.take("two")
    assert some.take("any")
    assert some.open == {"one", "fast"}
    assert some.take("one")
    some.give_back("any")
    assert some.open == {"two", "any", "fast"}
    some.limit(["any"], 0)
    assert some.open == {"two", "fast"}
