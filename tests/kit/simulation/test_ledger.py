"""The ledger of a simulation: what keeps a promise passes, and what breaks it is caught."""

from contextlib import nullcontext

import pytest
from kit.simulation.ledgers import LEASE_SECONDS, Book, after, breaks, failed, finished, planned_job, poisoned, scripted
from msgspec.structs import replace

from nodekit import JobStatus, NodeLimits
from nodekit.testing import make_job
from nodekit.testing.simulation.containers import Call

JOB = make_job("a")

# -- acceptance -----------------------------------------------------------------------------------


def test_a_key_that_gives_its_job_again_is_in_order() -> None:
    book = Book()
    book.ledger.accepted("one", JOB)
    book.ledger.accepted("one", JOB)
    book.ledger.accepted("two", make_job("a"))


def test_a_key_that_gives_two_jobs_is_caught() -> None:
    book = Book()
    book.ledger.accepted("one", JOB)
    with breaks("one key, one job"):
        book.ledger.accepted("one", make_job("a"))


def test_a_job_that_nobody_was_told_of_may_be_missing() -> None:
    Book().ledger.missing(JOB.id)
    book = Book()
    book.ledger.answered(JOB)
    book.ledger.missing(JOB.id)


def test_an_accepted_job_that_is_missing_is_caught() -> None:
    book = Book()
    book.ledger.accepted("one", JOB)
    with breaks("no accepted job is lost"):
        book.ledger.missing(JOB.id)


# -- results stay ---------------------------------------------------------------------------------


def test_an_answer_may_be_older_than_another_that_came_first() -> None:
    book = Book()
    asked = book.ledger.asked(JOB.id)
    longer = after(JOB, book.began(JOB))
    book.ledger.answered(finished(longer))
    book.ledger.answered(JOB, asked)


def test_a_result_that_was_seen_and_is_gone_is_caught() -> None:
    book = Book()
    book.ledger.answered(after(JOB, book.began(JOB)))
    with breaks("a stored step stays"):
        book.ledger.answered(JOB, book.ledger.asked(JOB.id))


def test_an_end_that_is_seen_again_is_in_order() -> None:
    book, end = Book(), finished(JOB)
    book.ledger.answered(end)
    book.ledger.answered(replace(end, finish_number=5), book.ledger.asked(JOB.id))
    book.ledger.job_finished(replace(end, finish_number=5))


def test_a_job_that_goes_on_after_its_end_is_caught() -> None:
    book = Book()
    book.ledger.answered(finished(JOB))
    with breaks("an end is final"):
        book.ledger.answered(JOB, book.ledger.asked(JOB.id))


@pytest.mark.parametrize(
    "other",
    [finished(JOB, JobStatus.CANCELLED), finished(JOB, at=21.0), failed(JOB)],
    ids=["status", "time", "result"],
)
def test_a_job_that_ends_twice_is_caught(other: object) -> None:
    assert isinstance(other, type(JOB))
    book = Book()
    book.ledger.answered(finished(JOB))
    with breaks("a job ends once"):
        book.ledger.answered(other)
    book = Book()
    book.ledger.job_finished(finished(JOB))
    with breaks("a job ends once"):
        book.ledger.job_finished(other)


def test_a_node_and_an_answer_that_say_different_ends_are_caught() -> None:
    book = Book()
    book.ledger.answered(finished(JOB))
    with breaks("a job ends once"):
        book.ledger.job_finished(finished(JOB, JobStatus.CANCELLED))


def test_an_end_with_two_numbers_is_caught() -> None:
    book, end = Book(), finished(JOB)
    book.ledger.answered(replace(end, finish_number=5))
    with breaks("a job ends once"):
        book.ledger.answered(replace(end, finish_number=6))


def test_a_stream_whose_job_succeeded_is_in_order() -> None:
    Book().ledger.streamed(finished(JOB))


def test_a_stream_that_ends_and_whose_job_failed_is_caught() -> None:
    with breaks("a stream that ends is whole"):
        Book().ledger.streamed(finished(JOB, JobStatus.FAILED))


# -- calls ----------------------------------------------------------------------------------------


def test_steps_that_follow_each_other_are_in_order() -> None:
    book = Book()
    book.ended(book.began(JOB, 0, node="node-1#1"))
    book.ledger.step_finished(JOB, 0)
    book.began(JOB, 1, node="node-2#1")


def test_a_step_that_two_nodes_run_is_caught() -> None:
    book = Book()
    book.began(JOB, node="node-1#1")
    with breaks("one node runs a step"):
        book.began(JOB, node="node-2#1")


def test_a_step_may_be_taken_over_from_a_life_that_has_ended() -> None:
    book = Book()
    book.began(JOB, node="node-1#1")
    book.ledger.dead.add("node-1#1")
    book.began(JOB, node="node-1#2")


@pytest.mark.parametrize("machine", ["node-1", "node-2", "engine"])
def test_a_step_may_be_taken_over_if_a_machine_was_out_of_touch_for_long(machine: str) -> None:
    book = Book()
    book.began(JOB, node="node-1#1")
    outage = book.ledger.out(machine)
    book.now += LEASE_SECONDS
    outage.until = book.now
    book.began(JOB, node="node-2#1")


@pytest.mark.parametrize("case", ["short", "elsewhere", "long ago"])
def test_an_outage_that_costs_no_claim_excuses_nothing(case: str) -> None:
    book = Book()
    if case == "long ago":
        book.ledger.out("node-1", at_once=True).until = book.now
        book.now += LEASE_SECONDS
    book.began(JOB, node="node-1#1")
    if case != "long ago":
        outage = book.ledger.out("node-1" if case == "short" else "node-3")
        book.now += LEASE_SECONDS / 4 if case == "short" else 10
        outage.until = book.now
    with breaks("one node runs a step"):
        book.began(JOB, node="node-2#1")


def test_short_outages_in_a_row_count_as_a_long_one() -> None:
    book = Book()
    book.began(JOB, node="node-1#1")
    for _ in range(2):
        outage = book.ledger.out("node-1")
        book.now += LEASE_SECONDS / 4
        outage.until = book.now
    book.began(JOB, node="node-2#1")


def test_a_step_that_is_called_again_after_its_result_was_stored_is_caught() -> None:
    book = Book()
    book.ended(book.began(JOB))
    book.ledger.step_finished(JOB, 0)
    with breaks("no stored step is repeated"):
        book.began(JOB, node="node-2#1")


def test_a_node_that_was_killed_may_be_late_to_learn_that_a_step_is_stored() -> None:
    book = Book()
    book.ended(book.began(JOB))
    book.ledger.step_finished(JOB, 0)
    book.ledger.out("node-2", at_once=True)
    book.began(JOB, node="node-2#1")


def test_a_container_that_gets_its_pause_is_in_order() -> None:
    book = Book()
    book.ended(book.began(JOB), retry_after=2.0)
    book.now += 2.0
    book.began(JOB, node="node-2#1")


def test_a_container_that_is_called_before_its_pause_is_over_is_caught() -> None:
    book = Book()
    book.ended(book.began(JOB), retry_after=2.0)
    book.now += 1.9
    with breaks("a container gets the pause it asks for"):
        book.began(JOB, node="node-2#1")


def test_a_pause_that_an_outage_lost_is_excused() -> None:
    book = Book()
    book.ended(book.began(JOB), retry_after=2.0)
    book.ledger.out("node-1").until = book.now
    book.began(JOB, node="node-2#1")


@pytest.mark.parametrize(("ago", "excused"), [(0.001, True), (LEASE_SECONDS, False)])
def test_a_pause_is_not_known_to_others_if_a_claim_was_lost_a_moment_before(ago: float, excused: bool) -> None:
    book = Book()
    book.ledger.out("node-1").until = book.now
    book.now += ago
    book.ended(book.began(JOB), retry_after=2.0)
    with nullcontext() if excused else breaks("a container gets the pause it asks for"):
        book.began(JOB, node="node-2#1")


# -- calls of jobs that have ended ----------------------------------------------------------------


def end(book: Book, *, ago: float) -> None:
    """Let the job have ended some time before now."""
    book.ledger.answered(finished(JOB))
    book.now += ago


@pytest.mark.parametrize("seconds", [0.0, LEASE_SECONDS / 10])
def test_a_call_may_go_on_for_a_moment_after_its_job_has_ended(seconds: float) -> None:
    book = Book()
    call = book.began(JOB)
    end(book, ago=seconds)
    book.ledger.call_ended(call)
    book.began(JOB, 1)


def test_a_call_that_goes_on_after_its_job_has_ended_is_caught() -> None:
    book = Book()
    call = book.began(JOB)
    end(book, ago=LEASE_SECONDS / 2)
    with breaks("an ended job is not run"):
        book.ledger.call_ended(call)


def test_a_call_that_begins_after_its_job_has_ended_is_caught() -> None:
    book = Book()
    end(book, ago=LEASE_SECONDS / 2)
    with breaks("an ended job is not run"):
        book.began(JOB)


@pytest.mark.parametrize("machine", ["node-1", "engine"])
def test_a_node_that_was_out_of_touch_may_learn_late_that_a_job_has_ended(machine: str) -> None:
    book = Book()
    call = book.began(JOB)
    book.ledger.out(machine)
    end(book, ago=LEASE_SECONDS / 2)
    book.ledger.call_ended(call)


def test_a_call_of_a_life_that_has_ended_goes_on_nowhere() -> None:
    book = Book()
    call = book.began(JOB)
    book.ledger.dead.add(call.node)
    end(book, ago=LEASE_SECONDS / 2)
    book.ledger.call_ended(call)


# -- two calls of a step --------------------------------------------------------------------------


def taken_over(book: Book, *, stops: bool) -> tuple[Call, Call]:
    """Let a node take over a step from one that is out of touch."""
    first = book.began(JOB, node="node-1#1")
    book.ledger.out("node-1", stops=stops)
    book.now += LEASE_SECONDS
    return first, book.began(JOB, node="node-2#1")


def test_a_node_that_is_cut_off_and_still_runs_a_step_after_its_lease_is_caught() -> None:
    book = Book()
    _, second = taken_over(book, stops=False)
    with breaks("one node runs a step"):
        book.ledger.check_alone(second)


def test_a_node_that_gave_up_its_call_in_time_is_in_order() -> None:
    book = Book()
    first, second = taken_over(book, stops=False)
    book.ended(first)
    book.ledger.check_alone(second)


def test_a_node_that_stood_still_cannot_know_that_its_lease_is_over() -> None:
    book = Book()
    _, second = taken_over(book, stops=True)
    book.ledger.check_alone(second)


# -- outcomes -------------------------------------------------------------------------------------


def test_a_job_with_outputs_that_follow_each_other_is_in_order() -> None:
    book, job = Book(), scripted(2)
    first = book.began(job, 0)
    book.ended(first)
    second = book.began(job, 1, after=first.number)
    book.ledger.check_outcome(finished(after(after(job, first), second)))


def test_an_output_that_was_made_from_another_call_is_caught() -> None:
    book, job = Book(), scripted(2)
    first = book.began(job, 0)
    book.ended(first)
    second = book.began(job, 1, after=7)
    with breaks("outputs follow each other"):
        book.ledger.check_outcome(finished(after(after(job, first), second)))


def test_an_output_of_a_call_that_never_was_is_caught() -> None:
    book, job = Book(), scripted()
    with breaks("outputs follow each other"):
        book.ledger.check_outcome(finished(after(job, book.call(job))))


def test_a_job_that_should_fail_and_does_is_in_order() -> None:
    Book().ledger.check_outcome(failed(scripted(wrong=0)))


@pytest.mark.parametrize("case", ["fails", "succeeds", "fails late", "cancelled"])
def test_an_outcome_that_nobody_asked_for_is_caught(case: str) -> None:
    book, good, bad = Book(), scripted(), scripted(2, wrong=0)
    job = {
        "fails": failed(good),
        "succeeds": finished(after(bad, book.call(bad))),
        "fails late": failed(after(bad, book.call(bad))),
        "cancelled": finished(good, JobStatus.CANCELLED),
    }[case]
    with breaks("a job does what it asks for"):
        book.ledger.check_outcome(job)


def test_a_job_that_a_client_cancelled_may_be_cancelled() -> None:
    book, job = Book(), scripted()
    book.ledger.cancelled.add(job.id)
    book.ledger.check_outcome(finished(job, JobStatus.CANCELLED))


def test_a_poison_job_that_succeeds_is_caught() -> None:
    book, job = Book(), scripted(poison=0)
    with breaks("a job does what it asks for"):
        book.ledger.check_outcome(finished(after(job, book.began(job))))


def lost(book: Book, times: int, *, seconds: float = 0.0, at_once: bool = True) -> None:
    """Note that a machine was out of touch some times."""
    for _ in range(times):
        outage = book.ledger.out("node-1", at_once=at_once)
        book.now += seconds
        outage.until = book.now


@pytest.mark.parametrize("at_once", [True, False])
def test_a_job_that_lost_its_node_again_and_again_may_fail_as_poison(at_once: bool) -> None:
    book = Book()
    lost(book, NodeLimits().max_takeovers, seconds=LEASE_SECONDS / 2, at_once=at_once)
    book.ledger.check_outcome(poisoned(scripted()))


@pytest.mark.parametrize("case", ["too few", "too short", "before its last step"])
def test_a_job_that_was_not_lost_often_enough_and_fails_as_poison_is_caught(case: str) -> None:
    book, most, job = Book(), NodeLimits().max_takeovers, scripted(2)
    lost(book, most - 1 if case == "too few" else most, seconds=1.0, at_once=case != "too short")
    if case == "before its last step":
        book.now += 2 * LEASE_SECONDS
        job = after(job, book.began(job))
        book.ledger.step_finished(job, 0)
    with breaks("only poison fails as poison"):
        book.ledger.check_outcome(poisoned(job))


def poison_runs(book: Book, times: int) -> None:
    for life in range(times):
        book.ended(book.began(JOB, node=f"node-1#{life}"))


def test_poison_may_end_some_nodes() -> None:
    poison_runs(Book(jobs=[planned_job(poison=0)]), NodeLimits().max_takeovers)


def test_poison_that_ends_one_node_more_is_caught() -> None:
    with breaks("poison ends few nodes"):
        poison_runs(Book(jobs=[planned_job(poison=0)]), NodeLimits().max_takeovers + 1)


def test_an_engine_that_was_killed_may_let_poison_run_again() -> None:
    book = Book(jobs=[planned_job(poison=0)])
    book.ledger.out("engine", at_once=True).until = book.now
    poison_runs(book, NodeLimits().max_takeovers + 1)


def test_a_job_whose_time_is_over_may_fail() -> None:
    limits = NodeLimits(job_timeout_seconds=4.0)
    book = Book(limits=limits, jobs=[planned_job(at=5.0)])
    book.ledger.check_outcome(failed(scripted(), "job_timeout"))


def test_a_job_that_fails_before_its_time_is_over_is_caught() -> None:
    limits = NodeLimits(job_timeout_seconds=4.0)
    book = Book(limits=limits, jobs=[planned_job(at=9.0)])
    with breaks("a job has the time that it may take"):
        book.ledger.check_outcome(failed(scripted(), "job_timeout"))


def test_without_a_time_limit_no_job_may_fail_by_one() -> None:
    book = Book(jobs=[planned_job()])
    with breaks("a job does what it asks for"):
        book.ledger.check_outcome(failed(scripted(), "job_timeout"))


def test_a_job_that_has_too_little_time_for_another_attempt_may_fail_as_its_container() -> None:
    book = Book(limits=NodeLimits(job_timeout_seconds=4.0))
    book.ledger.check_outcome(failed(scripted(failures=[1])))
