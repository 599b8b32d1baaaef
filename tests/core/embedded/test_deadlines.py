"""Deadlines: they expire in order, each once, and removed ones are not kept."""

from random import Random

from components import held

from nodekit.embedded.deadlines import Expiries


def of(**times: float) -> Expiries:
    expiries = Expiries()
    for id, at in times.items():
        expiries.set(id, at)
    return expiries


def popped(expiries: Expiries, now: float = 1e9) -> list[str]:
    ids = []
    while (id := expiries.pop(now)) is not None:
        ids.append(id)
    return ids


def test_what_is_due_comes_in_the_order_of_its_time_each_once() -> None:
    expiries = of(late=9, soon=1, mid=5, same=5)
    assert expiries.next_at() == 1
    assert expiries.pop(0.9) is None
    assert expiries.pop(1) == "soon"
    assert popped(expiries, 5) == ["mid", "same"]
    assert expiries.next_at() == 9
    assert popped(expiries, 8.9) == []
    assert popped(expiries, 10) == ["late"]
    assert (popped(expiries), expiries.next_at()) == ([], None)


def test_what_was_dropped_never_comes_and_is_no_error_where_it_was_not_there() -> None:
    expiries = of(a=1, b=2, c=3)
    expiries.drop("a")
    expiries.drop("unknown")
    assert popped(expiries) == ["b", "c"]


def test_what_is_set_again_has_its_new_time_alone() -> None:
    expiries = of(sooner=5, later=1, other=3)
    expiries.set("sooner", 2)
    expiries.set("later", 4)
    assert popped(expiries) == ["sooner", "other", "later"]
    expiries.set("later", 1)
    assert popped(expiries) == ["later"]


def test_what_is_left_comes_in_order_after_most_was_dropped_and_nothing_of_that_is_kept() -> None:
    chance, expiries = Random(1), Expiries()
    times = {f"{number:05}": chance.random() for number in range(5000)}
    for id, at in times.items():
        expiries.set(id, at)
    before = held(expiries)
    left = sorted(chance.sample(sorted(times), 500), key=times.__getitem__)
    for id in times.keys() - set(left):
        expiries.drop(id)
    expiries.set("one more", 2)
    assert held(expiries) < before / 4
    assert popped(expiries) == [*left, "one more"]


def test_nothing_is_kept_of_what_was_due() -> None:
    expiries = of(**{str(number): number for number in range(5000)})
    assert len(popped(expiries)) == 5000
    assert held(expiries) < 100


def test_a_few_that_were_dropped_are_not_looked_for_until_they_would_be_due() -> None:
    expiries = Expiries()
    for number in range(1000):
        expiries.set(str(number), number)
        expiries.drop(str(number))
    assert expiries.next_at() == 0
    assert (popped(expiries), expiries.next_at()) == ([], None)
