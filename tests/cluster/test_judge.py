"""The judge of a drill finds what is lost, done twice and told otherwise, and excuses what a fault explains."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.clients import PATHS, Submitted, containers_of
from cluster.containers import Call
from cluster.drill import traced
from cluster.faults import CUTS, Harm, Plan
from cluster.judge import Evidence, problems

JOB, OTHER = "0000-1", "0000-2"
LEASE_SECONDS = 1.0


def submitted(id: str, at: float) -> Submitted:
    return Submitted(0, ("a", "b", "c"), "{}", at, at + 0.1, [("node-0", id), ("node-1", id)])


def calls_of(id: str, at: float) -> list[Call]:
    return [Call(id, step, f"node-{step}", "abc"[step], at + step, at + step + 0.5) for step in range(3)]


def result(id: str, status: str = "success", path: str = "abc") -> dict[str, Any]:
    return {"id": id, "status": status, "result": {"container": "c", "output": {"path": list(path)}}}


def evidence() -> Evidence:
    """Return the evidence of a drill of two jobs in which all went well."""
    ids = [JOB, OTHER]
    return Evidence(
        jobs=[submitted(JOB, 100.0), submitted(OTHER, 200.0)],
        calls=[*calls_of(JOB, 100.0), *calls_of(OTHER, 200.0)],
        harms=[],
        lease_seconds=LEASE_SECONDS,
        results={f"node-{n}": {id: result(id) for id in ids} for n in range(3)},
        listed={f"node-{n}": ids for n in range(3)},
        pending={f"node-{n}": [] for n in range(3)},
        told=ids,
    )


def found(seen: Evidence) -> str:
    return "\n".join(problems(seen))


def test_a_drill_in_which_all_went_well_has_no_problem() -> None:
    assert found(evidence()) == ""
    assert found(replace(evidence(), told=[JOB])) == ""  # a node that is killed may have told nobody


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"notes": ["node-1 ended with 1"]}, "ended with 1"),
        ({"queued": 1}, "1 jobs are queued"),
        ({"told": [JOB, JOB, OTHER]}, f"the end of job {JOB} was told 2 times"),
        ({"told": ["0000-9"]}, "the end of an unknown job"),
        ({"listed": {"node-0": [JOB]}}, "node-0 lists 1 jobs of 2"),
        ({"listed": {"node-0": [JOB, OTHER, "0000-3"]}}, "node-0 lists 3 jobs of 2"),
        ({"listed": {"node-0": [OTHER, JOB]}}, "node-0 lists"),
        ({"pending": {"node-0": [JOB]}}, "node-0 lists unfinished jobs"),
        ({"calls": calls_of(JOB, 100.0)}, f"job {OTHER} was never called"),
        ({"jobs": [submitted(JOB, 100.0)]}, "steps of a job that has no client were called"),
    ],
)
def test_what_is_wrong_is_found(change: dict[str, Any], problem: str) -> None:
    assert problem in found(replace(evidence(), **change))


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ({}, "is unknown to node-2"),
        ({JOB: result(JOB, "failed"), OTHER: result(OTHER)}, "has several results"),
        ({JOB: result(JOB, path="abbc"), OTHER: result(OTHER)}, "has several results"),
    ],
)
def test_nodes_that_disagree_are_found(results: dict[str, Any], problem: str) -> None:
    seen = evidence()
    assert problem in found(replace(seen, results={**seen.results, "node-2": results}))


def test_a_result_that_is_the_same_everywhere_and_wrong_is_found() -> None:
    wrong = {f"node-{n}": {JOB: result(JOB, path="aabc"), OTHER: result(OTHER)} for n in range(3)}
    assert "not with the path" in found(replace(evidence(), results=wrong))


def test_one_key_that_is_two_jobs_is_found() -> None:
    seen = evidence()
    seen.jobs[1].ids[1] = "node-1", "0000-3"
    assert "has 2 ids" in found(seen)


def test_an_id_that_is_smaller_than_one_of_long_before_is_found() -> None:
    seen = evidence()
    assert "smaller id" in found(replace(seen, jobs=[submitted(JOB, 200.0), submitted(OTHER, 100.0)]))
    assert found(replace(seen, jobs=[submitted(JOB, 200.1), submitted(OTHER, 200.0)])) == ""


AGAIN = Call(JOB, 1, "node-0", "b", 101.7)
LATE = Call(JOB, 1, "node-1", "b", 105.0)


@pytest.mark.parametrize(
    ("again", "harm", "problem"),
    [
        (AGAIN, None, "called by node-1 at 1.00 s (0.50 s), and again by node-0 at 1.70 s (no end) for no reason"),
        (AGAIN, Harm("kill", "node-2", 100.0, 103.0), "for no reason"),
        (AGAIN, Harm("kill", "node-1", 90.0, 95.0), "for no reason"),
        (AGAIN, Harm("kill", "node-1", 101.2, 103.0), ""),
        (AGAIN, Harm("restart", None, 101.2, 101.5), ""),
        (AGAIN, Harm("freeze", "node-0", 100.1, 101.6), ""),
        (LATE, Harm("freeze", "node-1", 100.5, 104.5), ""),
        (LATE, Harm("freeze", "node-1", 100.5, 100.9), "and stored before 2.0 s"),
        (LATE, Harm("freeze", "node-0", 100.5, 104.5), "and stored before 2.0 s"),
    ],
)
def test_a_repeated_call_needs_a_fault_that_explains_it(again: Call, harm: Harm | None, problem: str) -> None:
    seen = evidence()
    seen.calls = [*seen.calls, again]
    seen.harms = [harm] if harm else []
    assert problem in found(seen)
    assert bool(found(seen)) == bool(problem)


def test_plans_are_those_of_their_seeds_and_try_everything() -> None:
    plans = [Plan.of(seed, 8.0) for seed in range(100)]
    assert plans == [Plan.of(seed, 8.0) for seed in range(100)]
    assert {plan.cut_by for plan in plans} == {*CUTS}
    assert {plan.order[0] for plan in plans} == {"kill", "freeze", "restart", "cut"}
    assert all(len({plan.killed, plan.frozen, plan.cut}) == 3 for plan in plans)
    assert all(max(plan.starts.values()) < 8.0 for plan in plans)


def test_no_node_has_all_containers_of_a_job() -> None:
    assert all(set(path) - set(containers_of(node)) for path in PATHS for node in range(3))


def test_a_traceback_is_found_with_the_record_that_has_it() -> None:
    at = "2026-11-30 22:52:3"
    log = f"{at}2,986 ERROR   nodekit: text\nTraceback (most recent call last):\nKeyError: 1\n{at}3,000 INFO    on\n"
    assert [record.splitlines()[-1] for record in traced(log)] == ["KeyError: 1"]
    assert list(traced(f"{at}2,986 ERROR   nodekit: text\n")) == []
