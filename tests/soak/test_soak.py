"""The judge of a soak tells a leak from noise, and a short soak finds what is planted. `make soak` is the long one."""

import asyncio
import os
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from soak import ledger
from soak.judge import BOUNDS, LEAST, MEGABYTE, Series, judged, slope
from soak.ledger import Expected, Ledger
from soak.picture import picture
from soak.plan import Plan
from soak.report import text
from soak.run import Report, soak

MEMORY = next(bound for bound in BOUNDS if bound.key == "node")
SECONDS = 900


def series(value: Callable[[float], float], *, noise: float = 2 * MEGABYTE, seed: int = 1) -> Series:
    """Return samples of a node's memory: 60 MiB, and what is given, with noise."""
    chance = random.Random(seed)
    return [(at, 60 * MEGABYTE + value(at) + chance.gauss(0, noise)) for at in range(0, SECONDS, 2)]


def grows(samples: Series) -> bool:
    return bool(judged(samples, 0, SECONDS, MEMORY).problem)


# -- the judge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_flat_and_a_leak_in_it_is_not(seed: int) -> None:
    assert not grows(series(lambda at: 0, seed=seed))
    assert grows(series(lambda at: at / SECONDS * 30 * MEGABYTE, seed=seed))
    assert grows(series(lambda at: at / SECONDS * 90 * MEGABYTE, noise=20 * MEGABYTE, seed=seed))


def test_what_comes_and_goes_is_flat() -> None:
    assert not grows(series(lambda at: at % 60 * MEGABYTE))  # a saw
    assert not grows(series(lambda at: 300 * MEGABYTE * (at % 100 < 10)))  # large bodies, now and then
    assert not grows(series(lambda at: -at / SECONDS * 30 * MEGABYTE))  # it shrinks


def test_a_saw_that_climbs_is_a_leak() -> None:
    assert grows(series(lambda at: at % 60 * MEGABYTE / 4 + at / SECONDS * 40 * MEGABYTE))


def test_a_few_samples_that_are_far_off_change_nothing() -> None:
    samples = [*series(lambda at: 0)]
    samples[-40:] = [(at, value * 10) for at, value in samples[-40:]]
    assert not grows(samples)
    assert slope([(0, 0), (1, 1), (2, 2), (3, 100), (4, 4)]) == 1


def test_only_what_is_between_the_times_is_judged() -> None:
    samples = series(lambda at: 500 * MEGABYTE * (at < 300))
    assert not judged(samples, 300, SECONDS, MEMORY).problem
    assert judged(samples, 300, SECONDS, MEMORY).before < 70 * MEGABYTE


def test_too_few_samples_are_a_problem_and_not_a_flat_line() -> None:
    samples = series(lambda at: 0)[: LEAST - 1]
    assert judged(samples, 0, SECONDS, MEMORY).problem == "memory of the node: only 11 samples"


def test_a_problem_says_how_much_it_grew_and_what_is_allowed() -> None:
    problem = judged(series(lambda at: at / SECONDS * 30 * MEGABYTE, noise=0), 0, SECONDS, MEMORY).problem
    assert problem == "memory of the node: grew by 20.0 MiB, 14.6 is allowed"


# -- the ledger -----------------------------------------------------------------------------------


def result(status: str, **more: object) -> dict[str, object]:
    return {"id": "a", "status": status, "result": {"container": "work", **more}}


def test_a_wrong_result_and_a_failure_without_a_fault_are_found() -> None:
    book = Ledger(keep_seconds=60)
    book.settle("a", Expected(3, 1), result("success", output={"n": 3, "pad": "x"}))
    book.settle("b", Expected(3, 1, may_fail=True), result("failed", error="died"))
    assert not book.wrong
    book.settle("c", Expected(3, 1), result("success", output={"n": 4, "pad": "x"}))
    book.settle("d", Expected(3, 1), result("failed", error="died"))
    book.settle("e", Expected(is_stream=True), result("success", output={"output": "xxy"}))
    assert [line.partition(":")[0] for line in book.wrong] == ["c", "d", "e"]


def test_a_job_that_is_missing_is_lost_unless_it_may_be_deleted_already(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(ledger.time, "monotonic", lambda: now)
    book = Ledger(keep_seconds=60)
    book.miss("a", Expected(seen_at=now - 30))
    book.miss("b", Expected(seen_at=now - 59))
    assert (book.lost, book.unseen) == (["a"], 1)


# -- plan, picture and report ---------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [0.2, 2, 30, 120])
def test_what_is_judged_is_most_of_one_life(minutes: float) -> None:
    plan = Plan(minutes=minutes)
    assert len(plan.kills) >= 2
    assert plan.kills[-1] < plan.judged_from < plan.seconds
    assert plan.seconds - plan.judged_from >= plan.seconds / 2 - 1e-6


def test_the_picture_is_valid_and_has_colours_for_light_and_dark_pages() -> None:
    plan = Plan(minutes=15)
    verdicts = [judged(series(lambda at: 0), 400, SECONDS, MEMORY)]
    report = Report(plan=plan, seconds=SECONDS, accepted=1234, kills=[100.0], verdicts=verdicts)
    report.series = {"node": series(lambda at: 0), "jobs": [(0.0, 0.0), (1.0, 0.0)]}
    drawn = picture(report)
    root = ElementTree.fromstring(drawn)
    assert "prefers-color-scheme: dark" in drawn
    assert "nan" not in drawn
    assert "60.0 → 60.1 MiB, flat" in drawn or "→" in drawn
    assert len([node for node in root.iter() if node.get("class") == "line"]) == 2
    assert len([node for node in root.iter() if node.get("class") == "kill"]) == 2
    assert "| memory of the node, MiB |" in text(report)


# -- a real one -----------------------------------------------------------------------------------


def test_a_short_soak_finds_what_is_planted_and_nothing_else(tmp_path: Path) -> None:
    plan = Plan(minutes=0.4, plant="memory,descriptors,tasks,processes,wrong")
    report = asyncio.run(soak(plan, tmp_path, lambda line: None))
    problems = "\n".join(report.problems)
    for words in ("memory of the node: grew", " wrong: "):
        assert words in problems, text(report)
    seen_by_root = ["descriptors"] if os.geteuid() == 0 else []
    for word in ("tasks", "processes", *seen_by_root):
        assert f"{word} left" in problems, text(report)
    assert "lost" not in problems, text(report)
    assert "traceback" not in problems, text(report)
    assert report.accepted == sum(report.ended.values()) > 20
    assert len(report.kills) == 2
