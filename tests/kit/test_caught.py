"""The suites can fail: each of these parts breaks a promise, and the tests that say so are named."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, TypeAlias
from xml.etree import ElementTree

import pytest

from nodekit.testing import (
    DurableJobStoreContract,
    GuardContract,
    JobTableContract,
    ObserverContract,
    PipelineContract,
    SharedStoreContract,
    StreamingRunnerContract,
    TransportContract,
)

ROOT = Path(__file__).parents[2]
BROKEN = Path(__file__).parent / "broken"

Module: TypeAlias = Literal["pipelines", "guards", "observers", "runners", "stores"]


class Break(NamedTuple):
    """A part that is broken."""

    module: Module
    name: str
    caught_by: tuple[str, ...]
    """The tests that fail, and no others."""


LEFT = "test_a_node_with_it_starts_and_stops_and_nothing_is_left"
KILLED = "test_what_a_call_has_kept_survives_a_kill"
KILLED_AGAIN = "test_what_was_told_survives_kills_at_any_moment"
FULL = "test_what_does_not_fit_on_the_disk_is_refused_as_a_whole"
STORE_LEFT = ("test_nothing_is_left_of_one_that_was_left", "test_a_store_that_was_left_leaves_nothing_open")
KEEPING_MUCH = "test_keeping_much_does_not_block_the_event_loop"
RUNNER_LEFT = "test_exit_leaves_no_tasks_descriptors_or_threads"
HOSTILE = "test_whatever_a_client_sends_it_is_let_in_or_refused"
TOLD_WHY = "test_who_is_unwelcome_is_refused_and_told_why"
NODE = ("test_a_node_takes_jobs_to_their_end", "test_no_stored_step_is_called_again_after_a_crash")
NOT_THERE = "test_check_refuses_a_job_whose_containers_are_not_there"
RESTARTED = "test_a_job_goes_on_after_a_restart"
ENDS = "test_each_job_comes_to_an_end"

BREAKS = (
    Break("pipelines", "ThrowsDice", ("test_the_same_job_always_gets_the_same_answer", RESTARTED, *NODE)),
    Break("pipelines", "ReadsTheClock", ("test_the_answer_does_not_depend_on_the_time",)),
    Break("pipelines", "RemembersItsJobs", (RESTARTED,)),
    Break("pipelines", "ChangesTheJob", ("test_asking_changes_nothing_of_the_job",)),
    Break("pipelines", "ChangesWhatIsOffered", ("test_check_changes_nothing_of_what_it_is_given", *NODE)),
    Break("pipelines", "CountsFromOne", ("test_steps_say_which_job_and_which_step_they_are",)),
    Break("pipelines", "IsAlwaysTheFirstAttempt", ("test_a_step_stays_due_while_its_attempts_fail",)),
    Break("pipelines", "NeverEnds", (ENDS,)),
    Break("pipelines", "TriesForEver", (ENDS,)),
    Break("pipelines", "LosesTheOutcome", ("test_an_outcome_is_an_end_and_has_a_result",)),
    Break("pipelines", "ChokesOnOutputs", ("test_whatever_containers_answer_it_knows_what_follows",)),
    Break("pipelines", "ChecksNothing", (NOT_THERE,)),
    Break("pipelines", "ChecksByAccident", ("test_check_raises_nothing_but_refusals",)),
    Break("pipelines", "GoesElsewhere", ("test_steps_are_in_containers_that_are_there", NOT_THERE, *NODE)),
    Break("pipelines", "GoesPastTheGuards", ("test_steps_are_in_containers_that_the_request_names", *NODE)),
    Break("pipelines", "StreamsEveryStep", ("test_a_stream_is_refused_or_is_of_the_last_step",)),
    Break("pipelines", "NeverStreams", ("test_a_stream_is_refused_or_is_of_the_last_step",)),
    Break("guards", "ChokesOnOddData", (HOSTILE,)),
    Break("guards", "ChokesOnHugeNumbers", (HOSTILE,)),
    Break("guards", "LetsAnybodyIn", (TOLD_WHY,)),
    Break("guards", "LetsNobodyIn", ("test_who_is_welcome_is_let_in",)),
    Break("guards", "RacesWithItself", ("test_who_is_refused_alone_is_refused_among_many",)),
    Break("guards", "ChangesRequests", ("test_asking_changes_nothing_of_the_request_or_the_node",)),
    Break("guards", "KeepsRequests", ("test_it_holds_on_to_nothing_that_it_was_asked_about",)),
    Break("guards", "SaysNothing", (TOLD_WHY, HOSTILE)),
    Break("guards", "SaysWhatNoClientCanRead", (TOLD_WHY, HOSTILE)),
    Break("guards", "BlocksTheLoop", ("test_asking_does_not_block_the_event_loop",)),
    Break(
        "guards",
        "IsStuckOnceItIsCancelled",
        ("test_one_that_was_cancelled_while_it_was_asked_can_be_asked_again",),
    ),
    Break("guards", "LeavesATask", (LEFT,)),
    Break("guards", "LeavesADescriptor", (LEFT,)),
    Break("guards", "BlocksTheStart", (LEFT,)),
    Break(
        "guards",
        "HoldsUpTheEnd",
        ("test_an_error_while_a_node_runs_comes_back_as_it_is", "test_a_node_with_it_can_be_cancelled"),
    ),
    Break(
        "observers",
        "Raises",
        ("test_it_is_told_of_jobs_that_succeed_fail_and_are_cancelled", "test_every_event_can_be_told"),
    ),
    Break("observers", "ChokesOnNewEvents", ("test_events_that_it_does_not_know_are_nothing_to_it",)),
    Break("observers", "Blocks", ("test_being_told_does_not_block",)),
    Break("observers", "KeepsEvents", ("test_it_does_not_hold_on_to_what_it_was_told",)),
    Break(
        "observers",
        "ChangesJobs",
        ("test_jobs_go_on_as_without_it", "test_it_is_told_of_jobs_that_succeed_fail_and_are_cancelled"),
    ),
    Break("observers", "LeavesATask", (LEFT,)),
    Break("observers", "LeavesAThread", (LEFT,)),
    Break("observers", "MumblesItsProblems", ("test_it_says_in_sentences_what_is_wrong",)),
    Break("runners", "LeavesWhatWasGivenUp", (RUNNER_LEFT,)),
    Break("runners", "LeavesADescriptor", (RUNNER_LEFT,)),
    Break("runners", "LeavesAThread", (RUNNER_LEFT,)),
    Break("runners", "BlocksTheLoop", ("test_calls_do_not_block_the_event_loop",)),
    Break("runners", "RaisesWhatItLikes", ("test_a_failure_is_a_container_failed_that_says_why",)),
    Break("runners", "MixesUpItsCalls", ("test_calls_at_the_same_time_do_not_mix_their_results",)),
    Break("stores", "WritesAtItsEnd", (KILLED, KILLED_AGAIN)),
    Break("stores", "WritesABitLater", (KILLED, KILLED_AGAIN)),
    Break("stores", "WritesWhenItAdds", (KILLED, KILLED_AGAIN)),
    Break("stores", "SetsKeysAgain", (KILLED_AGAIN, FULL)),
    Break("stores", "ShowsWhatItRefused", (FULL,)),
    Break("stores", "RaisesWhatTheDiskSays", (FULL,)),
    Break("stores", "LeavesATask", STORE_LEFT),
    Break("stores", "LeavesADescriptor", STORE_LEFT),
    Break("stores", "LeavesAThread", STORE_LEFT),
    Break("stores", "BlocksTheLoop", (KEEPING_MUCH,)),
    Break("stores", "TableLeavesADescriptor", STORE_LEFT[:1]),
    Break("stores", "TableBlocksTheLoop", (KEEPING_MUCH,)),
)

CHOSEN = {"stores": "left or block or kill or survive or disk"}
"""Of a suite that takes long."""
SOUND: Sequence[tuple[Module, str]] = (
    *(("guards", "Sound"), ("observers", "Sound"), ("runners", "Sound")),
    *(("stores", "Sound"), ("stores", "TableSound")),
)
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")


def of(module: Module, *values: object, id: str) -> object:
    """Tests of one module come to one worker, which runs its broken parts once."""
    marks = [pytest.mark.xdist_group(f"broken {module}"), pytest.mark.timeout(600)]
    return pytest.param(*values, id=id, marks=marks)


@pytest.mark.parametrize("one", [of(one.module, one, id=f"{one.module}-{one.name}") for one in BREAKS])
def test_what_is_broken_is_caught_by_the_tests_that_are_named_and_by_no_others(one: Break) -> None:
    assert failed(one.module)[one.name] == set(one.caught_by)


def test_the_reference_says_what_each_test_catches() -> None:
    page = (ROOT / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(test_\w+)` \|", page, re.MULTILINE))
    assert {test for one in BREAKS for test in one.caught_by} <= told
    suites = (
        *(PipelineContract, GuardContract, ObserverContract, TransportContract, StreamingRunnerContract),
        *(JobTableContract, DurableJobStoreContract, SharedStoreContract),
    )
    assert told == {name for suite in suites for name in dir(suite) if name.startswith("test_")}


def test_the_reference_names_all_settings_of_the_suites_of_stores_and_runners() -> None:
    page = (ROOT / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
    suites = (JobTableContract, DurableJobStoreContract, SharedStoreContract, StreamingRunnerContract)
    settings = {name for suite in suites for each in suite.__mro__ for name in vars(each).get("__annotations__", ())}
    assert settings >= {"exclusive", "kills", "kill_seconds", "quiet_seconds", "lease_seconds", "buffered_bytes"}
    assert settings <= set(re.findall(r"`(\w+)", page))


@pytest.mark.parametrize(("module", "name"), [of(m, m, name, id=f"{m}-{name}") for m, name in SOUND])
def test_what_is_sound_passes(module: Module, name: str) -> None:
    assert failed(module)[name] == set()


@pytest.mark.parametrize("module", [of("observers", "observers", id="observers")])
def test_an_observer_that_can_be_made_once_in_a_process_is_caught(module: Module) -> None:
    assert "test_a_new_one_can_follow_in_the_same_process" in failed(module)["CanBeMadeOnce"]


@cache
def failed(module: Module) -> Mapping[str, set[str]]:
    """Run the broken parts of a module with pytest. Of each, by its name, the tests that failed."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        ran = subprocess.run(
            [*PYTEST, f"--junit-xml={report}", "-k", CHOSEN.get(module, ""), str(BROKEN / f"{module}.py")],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert ran.returncode == 1, ran.stdout + ran.stderr
        cases = list(ElementTree.parse(report).iter("testcase"))
    found: dict[str, set[str]] = {}
    for case in cases:
        tests = found.setdefault(case.attrib["classname"].rpartition(".Test")[2], set())
        if case.find("failure") is not None or case.find("error") is not None:
            tests.add(case.attrib["name"].partition("[")[0])
    return found
