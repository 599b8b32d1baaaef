"""The schedule: by priority, then round-robin over clients, then oldest first; and nothing is lost."""

from collections import Counter
from collections.abc import Set
from itertools import count

from chance import given
from components import held
from hypothesis import strategies as st
from msgspec.structs import replace

from nodekit import Unfinished
from nodekit.embedded.fair_schedule import Schedule, Wanted

_numbers = count()


def entry(client: str = "a", *, due: str = "x", priority: int = 3, id: str | None = None) -> Unfinished:
    return Unfinished(id=id or f"{next(_numbers):09}", group=client, priority=priority, due=due)


def filled(*entries: Unfinished) -> Schedule:
    schedule = Schedule()
    for some in entries:
        schedule.add(some)
    return schedule


def order(schedule: Schedule, *containers: str) -> list[Unfinished]:
    wanted, taken = frozenset(containers or ("x",)), []
    while some := schedule.take(Wanted(wanted), 1, now=0):
        taken += some
    return taken


def clients(entries: list[Unfinished]) -> str:
    return "".join(entry.group for entry in entries)


def test_clients_take_turns() -> None:
    schedule = filled(*(entry(client) for client in "aaaabbc"))
    assert clients(order(schedule)) == "abcabaa"


def test_jobs_of_other_pipelines_stay() -> None:
    mine, plain, other = (replace(entry("a"), pipeline=name) for name in ("mine", "sequence", "other"))
    schedule = filled(mine, plain, other)
    assert schedule.take(Wanted({"x"}, {"mine", "more"}), 9, now=0) == [mine]
    assert schedule.take(Wanted({"x"}, set()), 9, now=0) == []
    assert schedule.take(Wanted({"x"}), 9, now=0) == [plain, other]


def test_one_suspect_is_taken_at_a_time_or_none() -> None:
    suspects = [replace(entry(client), suspect=True) for client in "aab"]
    schedule = filled(*suspects, *(fresh := [entry("a"), entry("a")]))
    assert schedule.take(Wanted({"x"}, suspects=False), 9, now=0) == fresh
    taken = [schedule.take(Wanted({"x"}), 9, now=0) for _ in suspects]
    assert sorted(some.id for [some] in taken) == [some.id for some in suspects]
    assert clients([some for [some] in taken[:2]]) == "ab"
    schedule.add(dropped := replace(entry("c"), suspect=True))
    assert schedule.remove(dropped.id) == dropped
    assert schedule.take(Wanted({"x"}), 9, now=0) == []


def test_jobs_are_counted_by_container() -> None:
    schedule = filled(entry("a"), entry("b", due="y"))
    schedule.add(entry("a"), due_at=50.0)
    since = {id: float(number) for number, id in enumerate(schedule._queued)}
    assert schedule.count(since.__getitem__) == {"x": (2, 0.0), "y": (1, 1.0)}
    assert Schedule().count(since.__getitem__) == {}


def test_a_client_that_was_served_waits_for_all_others_before_it_is_served_again() -> None:
    schedule = filled(*(entry(client) for client in "aaabbbccc"))
    assert clients(schedule.take(Wanted({"x"}), 2, now=0)) == "ab"
    schedule.add(entry("d"))
    assert clients(schedule.take(Wanted({"x"}), 8, now=0)) == "cabdcabc"


def test_turns_are_counted_over_all_containers() -> None:
    schedule = filled(entry("a", due="x"), entry("a", due="y"), entry("b", due="x"), entry("b", due="y"))
    assert [(e.group, e.due) for e in order(schedule, "x", "y")] == [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]


def test_a_client_that_is_served_often_in_one_container_does_not_starve_in_another() -> None:
    schedule = filled(*(entry("b") for _ in range(50)), *(entry("c") for _ in range(50)), entry("a", due="x"))
    served = ""
    for _ in range(10):
        schedule.add(entry("a", due="y"))
        schedule.take(Wanted({"y"}), 1, now=0)
        served += clients(schedule.take(Wanted({"x"}), 1, now=0))
    assert served.startswith("bcab")


def test_a_client_that_comes_back_is_not_served_twice_while_another_waits_for_its_turn() -> None:
    older = entry("carol")
    schedule = filled(entry("carol"), entry("carol", due="y"), entry("alice"))
    assert clients(schedule.take(Wanted({"x", "y"}), 2, now=0)) == "carolalice"
    schedule.add(entry("alice"))
    schedule.add(older)
    assert [(e.group, e.due) for e in order(schedule, "x", "y")] == [("carol", "x"), ("alice", "x"), ("carol", "y")]


def test_a_lane_that_opens_late_is_served_by_when_its_client_was_served_last() -> None:
    schedule = filled(entry("a", due="y"), entry("b"), entry("b"), entry("c"))
    schedule.add(entry("a"))
    assert clients(schedule.take(Wanted({"x"}), 2, now=0)) == "ab"


def test_a_delayed_job_comes_when_it_is_due_and_not_before() -> None:
    schedule, later, sooner = Schedule(), entry(), entry()
    schedule.add(later, due_at=20.0)
    schedule.add(sooner, due_at=10.0)
    assert schedule.next_due_at() == 10.0
    assert schedule.take(Wanted({"x"}), 5, now=9.9) == []
    assert schedule.take(Wanted({"x"}), 5, now=10.0) == [sooner]
    assert schedule.next_due_at() == 20.0
    assert schedule.take(Wanted({"x"}), 5, now=50.0) == [later]
    assert schedule.next_due_at() is None


def test_a_removed_job_never_comes_even_when_it_was_delayed() -> None:
    schedule, now, later, stays = Schedule(), entry(), entry(), entry()
    schedule.add(now)
    schedule.add(later, due_at=5.0)
    schedule.add(stays)
    assert len(schedule) == 3
    assert schedule.remove(now.id) == now
    assert schedule.remove(later.id) == later
    assert schedule.remove(later.id) is None
    assert now.id not in schedule
    assert schedule.take(Wanted({"x"}), 5, now=10.0) == [stays]
    assert len(schedule) == 0


def test_removing_a_clients_jobs_costs_it_no_turn() -> None:
    entries = [entry(client) for client in "aaab"]
    schedule = filled(*entries)
    schedule.remove(entries[0].id)
    schedule.remove(entries[1].id)
    assert clients(order(schedule)) == "ab"


def test_jobs_that_were_added_youngest_first_come_oldest_first_after_most_of_them_were_removed() -> None:
    entries = [entry() for _ in range(10)]
    schedule = filled(*entries[::-1])
    for some in entries[:6]:
        schedule.remove(some.id)
    assert order(schedule) == entries[6:]


def test_clients_are_served_in_their_order_after_most_of_them_have_gone() -> None:
    clients_ = [f"{number:03}" for number in range(200)]
    schedule, last = Schedule(), {client: entry(client) for client in clients_}
    for client in clients_[:100]:
        schedule.add(entry(client, id=f"0 {client}"))
    for some in last.values():
        schedule.add(some)
    assert [some.group for some in schedule.take(Wanted({"x"}), 100, now=0)] == clients_[:100]
    stay = {*clients_[70:130]}
    for client in clients_:
        if client not in stay:
            schedule.remove(last[client].id)
    assert [some.group for some in order(schedule)] == [*clients_[100:130], *clients_[70:100]]


def test_a_job_added_again_comes_once_and_as_it_was_added_last() -> None:
    first = entry(due="x")
    schedule = filled(first)
    schedule.remove(first.id)
    schedule.add(again := replace(first, due="y", priority=0))
    assert schedule.take(Wanted({"x"}), 5, now=0) == []
    assert schedule.take(Wanted({"x", "y"}), 5, now=0) == [again]
    schedule.add(first)
    schedule.add(again, due_at=7.0)
    assert schedule.take(Wanted({"x", "y"}), 5, now=0) == []
    assert schedule.take(Wanted({"x", "y"}), 5, now=7.0) == [again]
    assert len(schedule) == 0


def test_nothing_is_left_behind_once_all_was_taken() -> None:
    schedule = filled(*(entry(c, due=d, priority=p) for c in "abc" for d in "xyz" for p in range(8)))
    assert len(order(schedule, "x", "y", "z")) == 72
    assert not any(level._rotations or level._lanes or level._turns for level in schedule._levels.values())
    assert not schedule._queued


# -- against a naive model -----------------------------------------------------------------------


class Model:
    """The same rules as a model: one list, searched each time."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Unfinished, float]] = []

    def add(self, entry: Unfinished, due_at: float) -> None:
        self.remove(entry.id)
        self.waiting.append((entry, due_at))

    def remove(self, id: str) -> None:
        self.waiting = [(entry, due_at) for entry, due_at in self.waiting if entry.id != id]

    def due(self, containers: Set[str], now: float) -> list[Unfinished]:
        return [entry for entry, due_at in self.waiting if entry.due in containers and due_at <= now]

    def check(self, taken: list[Unfinished], containers: Set[str], limit: int, now: float) -> None:
        """Check that every due job was taken: best priority first, and the oldest of its client and container."""
        assert len(taken) == min(limit, len(self.due(containers, now)))
        served: Counter[tuple[int, str, str]] = Counter()
        for entry in taken:
            due = self.due(containers, now)
            assert entry in due
            level = [other for other in due if other.priority == min(other.priority for other in due)]
            assert entry in level
            lane = [other.id for other in level if (other.group, other.due) == (entry.group, entry.due)]
            assert entry.id == min(lane)
            served[entry.priority, entry.due, entry.group] += 1
            for client in {other.group for other in level if other.due == entry.due}:
                # no client gets two turns in a container while another waits there for one
                turns = [served[entry.priority, entry.due, some] for some in (entry.group, client)]
                assert turns[0] <= turns[1] + 1
            self.remove(entry.id)


ENTRIES = st.builds(
    Unfinished,
    id=st.integers(0, 40).map("{:02}".format),
    group=st.sampled_from("abc"),
    priority=st.sampled_from([0, 3, 7]),
    due=st.sampled_from("xyz"),
)
CONTAINERS = st.sets(st.sampled_from("xyz"))
ACTIONS = st.one_of(
    st.tuples(st.just("add"), ENTRIES, st.sampled_from([0.0, 0.0, 2.0, 5.0])),
    st.tuples(st.just("remove"), st.integers(0, 40).map("{:02}".format)),
    st.tuples(st.just("take"), CONTAINERS, st.integers(0, 8), st.just(1.0)),
)


@given(st.lists(ACTIONS, max_size=60), examples=300)
def test_it_does_as_a_naive_model_does(actions: list[tuple]) -> None:
    schedule, model, now = Schedule(), Model(), 0.0
    for name, *values in [*actions, ("take", {"x", "y", "z"}, 100, 100.0)]:
        if name == "add":
            some, delay = values
            if some.id in schedule:
                schedule.remove(some.id)
            schedule.add(some, due_at=now + delay if delay else None)
            model.add(some, now + delay)
        elif name == "remove":
            schedule.remove(values[0])
            model.remove(values[0])
        else:
            containers, limit, passed = values
            now += passed
            model.check(schedule.take(Wanted(containers), limit, now=now), containers, limit, now)
        assert len(schedule) == len(model.waiting)
    assert model.waiting == []


def test_jobs_that_were_removed_leave_nothing_behind() -> None:
    schedule, kept = Schedule(), entry("a")
    schedule.add(kept, expires_at=5)
    for _ in range(20):
        some = [entry("a") for _ in range(1000)]
        for each in some:
            schedule.add(each, due_at=None if each.id[-1] in "02468" else 9.0, expires_at=9.0)
        for each in some:
            schedule.remove(each.id)
    assert held(schedule) < 10_000  # after 20,000 jobs: some heap entries stay for a while
    assert order(schedule) == [kept]


def test_jobs_that_were_taken_leave_nothing_behind() -> None:
    schedule = Schedule()
    for _ in range(20):
        for _ in range(1000):
            schedule.add(entry(), due_at=1.0, expires_at=9.0)
        assert len(schedule.take(Wanted({"x"}), 1000, now=2.0)) == 1000
    assert held(schedule) < 10_000  # after 20,000 jobs: some heap entries stay for a while


def test_jobs_whose_time_is_over_come_once_and_are_no_longer_queued() -> None:
    schedule, first, second, delayed, stays = Schedule(), entry(), entry(due="y"), entry(), entry()
    schedule.add(second, expires_at=2)
    schedule.add(first, expires_at=1)
    schedule.add(delayed, due_at=99, expires_at=3)
    schedule.add(stays)
    assert schedule.next_expiry_at() == 1
    assert schedule.take_expired(9, now=0.9) == []
    assert all(some.id in schedule for some in (first, second, delayed, stays))
    assert schedule.take_expired(1, now=2) == [first]
    assert (first.id in schedule, len(schedule)) == (False, 3)
    assert schedule.take_expired(9, now=2) == [second]
    assert schedule.take_expired(9, now=3) == [delayed]
    assert schedule.take_expired(9, now=999) == []
    assert schedule.take(Wanted({"x", "y"}), 9, now=999) == [stays]


def test_a_job_that_was_taken_or_removed_does_not_expire() -> None:
    schedule, taken, removed = Schedule(), entry(), entry()
    schedule.add(taken, expires_at=1)
    assert schedule.take(Wanted({"x"}), 1, now=0) == [taken]
    schedule.add(removed, expires_at=1)
    schedule.remove(removed.id)
    assert schedule.take_expired(9, now=5) == []


def test_what_is_queued_again_has_its_new_times() -> None:
    schedule, some = Schedule(), entry()
    schedule.add(some, expires_at=5)
    schedule.add(some, due_at=3, expires_at=8)
    assert schedule.take_expired(9, now=6) == []
    assert schedule.take(Wanted({"x"}), 1, now=2) == []
    assert schedule.take(Wanted({"x"}), 1, now=4) == [some]
    assert schedule.take_expired(9, now=99) == []
    assert (schedule.next_due_at(), schedule.next_expiry_at()) == (None, None)


def test_who_has_looked_for_jobs_is_to_look_again_later_whatever_was_removed() -> None:
    """A time that is over already would make everybody look again at once, and for ever."""
    schedule, delayed, limited = Schedule(), entry(), entry()
    schedule.add(delayed, due_at=5)
    schedule.add(limited, expires_at=5)
    for some in (delayed, limited):
        schedule.remove(some.id)
    assert schedule.take(Wanted({"x"}), 9, now=6) == []
    assert schedule.take_expired(9, now=6) == []
    assert (schedule.next_due_at(), schedule.next_expiry_at()) == (None, None)


def test_many_jobs_of_a_client_in_one_container_do_not_delay_another_that_waits_behind_it_elsewhere() -> None:
    entries = [entry("a", due="y"), entry("b", due="y"), *(entry("a", due="x") for _ in range(1000))]
    taken = order(filled(*entries), "x", "y")
    assert clients(taken[:4]).count("b") == 1


def test_a_client_that_is_served_often_elsewhere_still_gets_its_turns_in_a_busy_container() -> None:
    schedule = filled(*(entry(client, due="y") for client in "ab" * 50), *(entry("a", due="x") for _ in range(1000)))
    served = []
    for _ in range(20):  # y has a slot now and then, x always
        for _ in range(5):
            schedule.take(Wanted({"x"}), 1, now=0)
        served += [some for some in schedule.take(Wanted({"x", "y"}), 2, now=0) if some.due == "y"]
    assert len(served) >= 20
    assert abs(clients(served).count("a") - clients(served).count("b")) <= 1


def test_clients_that_come_and_go_leave_nothing_behind_a_container_that_is_down() -> None:
    schedule = filled(entry("stays", due="down"))
    before = held(schedule)
    for number in range(5000):
        visit = entry(f"client {number}", due="down")
        schedule.add(visit)
        schedule.remove(visit.id)
    assert held(schedule) < before + 500


def test_the_oldest_job_of_a_client_comes_first_whatever_container_it_waits_for() -> None:
    entries = [entry(due=due) for due in "yxxyzyxz"]
    assert order(filled(*entries), "x", "y", "z") == entries
