"""Slots by group: nobody's claim exceeds a share, and most claims need not be limited at all."""

from chance import given
from hypothesis import strategies as st

from nodekit import ClaimRoom, ClientLimits, NodeLimits
from nodekit.execution.held_slots import HeldSlots
from nodekit.model.limits import SlotShares, group_share


def held(concurrency: int, *groups: str, **limits: object) -> HeldSlots:
    some = HeldSlots(SlotShares(NodeLimits(concurrency=concurrency, **limits)))  # type: ignore[arg-type]
    for group in groups:
        some.take(group)
    return some


def test_a_share_is_three_quarters_rounded_down_and_at_least_one() -> None:
    assert [group_share(number) for number in (1, 2, 3, 4, 5, 64, 10_000)] == [1, 1, 2, 3, 3, 48, 7500]


def test_streams_have_half_of_the_slots_and_at_least_one() -> None:
    assert [SlotShares(NodeLimits(concurrency=number)).streams for number in (1, 2, 3, 64)] == [1, 1, 1, 32]
    assert SlotShares(NodeLimits(concurrency=4, max_streams=9)).streams == 4
    assert SlotShares(NodeLimits(concurrency=64), 10).each == 7  # descriptors allow no more than ten


def test_a_claim_that_no_group_can_exceed_is_not_limited() -> None:
    assert held(64, *"ab").room(10, 1) == ClaimRoom(10, most_bytes=1)
    assert held(64).room(48, 1) == ClaimRoom(48, most_bytes=1)
    room = held(64).room(64, 1)
    assert (room.each, room.of("a"), room.of("local")) == (48, 48, 64)


def test_a_full_group_has_no_room_until_it_gives_a_slot_back() -> None:
    some = held(4, "a", "a", "a")
    assert some.full == {"a"}
    room = some.room(1, 1)
    assert (room.of("a"), room.of("b")) == (0, 3)
    some.give_back("a")
    assert some.full == set()
    assert some.room(1, 1) == ClaimRoom(1, most_bytes=1)


def test_a_stream_counts_among_its_groups_slots() -> None:
    some = held(8, *"aaa")
    assert [some.take_stream("a") for _ in range(4)] == [True, True, True, False]
    assert [some.take_stream("b") for _ in range(2)] == [True, False]
    assert some.full == {"a"}
    some.give_back_stream("a")
    assert some.take_stream("b")


@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40),
    st.integers(1, 9),
    st.sampled_from(
        [{}, {"clients": {"a": ClientLimits(concurrency=2)}}, {"each_client": ClientLimits(concurrency=1)}]
    ),
)
def test_the_room_of_a_claim_is_what_a_count_of_each_group_gives(
    concurrency: int, changes: list[tuple[str, bool]], limit: int, limits: dict[str, object]
) -> None:
    some, count = held(concurrency, **limits), dict.fromkeys("abc", 0)
    for group, takes in changes:
        if takes and count[group] < some.shares.of(group):
            some.take(group)
            count[group] += 1
        elif not takes and count[group]:
            some.give_back(group)
            count[group] -= 1
    room = some.room(limit, 1)
    for group, number in count.items():
        left = some.shares.of(group) - number
        assert min(limit, left) == min(limit, room.of(group))
        assert (left == 0) == (group in some.full)
