"""Deletion of finished jobs by a node, as its limits say."""

import logging
from functools import partial
from typing import Any

import anyio
import pytest
from components import Gate, functions, make_node, request, until_is

from nodekit import CompositionError, EmbeddedStore, JobQuery, Node, StoreFailed
from nodekit.node import retention
from nodekit.testing import Faults
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio

IN_ORDER = JobQuery(order="finished")


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROUND_SECONDS", 0.02)


async def finish(node: Node, count: int) -> list[str]:
    ids = [(await node.submit(request("echo"))).id for _ in range(count)]
    await node.wait(ids)
    return ids


async def test_jobs_that_finished_long_ago_are_deleted_and_unfinished_ones_are_not() -> None:
    async with make_node(functions(gate=Gate()), keep_finished_seconds=0.05, drain_seconds=0) as node:
        waiting = (await node.submit(request("gate"))).id
        await finish(node, 3)
        await until_is(node.find, [waiting])
        assert (await node.pending()).total == 1


async def test_the_last_jobs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE", 2)
    async with make_node(functions(), keep_finished_jobs=3) as node:
        await finish(node, 10)
        await until_is(partial(count, node), 3)
        last = [*await finish(node, 1), *await finish(node, 1)]
        await until_is(partial(count, node), 3)
        assert (await node.find(IN_ORDER))[1:] == last


async def count(node: Node) -> int:
    return len(await node.find())


async def test_without_a_limit_jobs_are_kept_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nodekit.node"):
        async with make_node(functions()) as node:
            ids = await finish(node, 2)
            await anyio.sleep(0.1)
            assert await node.find() == ids
    assert caplog.text.count("finished jobs are kept for ever") == 1


async def test_a_store_that_cannot_delete_is_tried_again_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    faults.before("delete", 1, 2, 3).fail(StoreFailed("the disk is full"))
    store = EmbeddedStore(faults.around(MemoryTable()))
    async with make_node(functions(), store=store, keep_finished_seconds=0.02) as node:
        await finish(node, 2)
        await until_is(node.find, [])
    assert caplog.text.count("finished jobs cannot be deleted: the disk is full") == 1


@pytest.mark.parametrize(
    "limits", [{"keep_finished_seconds": 0}, {"keep_finished_jobs": 0}, {"keep_finished_seconds": -1.0}]
)
def test_limits_that_keep_nothing_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(CompositionError, match=next(iter(limits))):
        make_node(functions(), **limits)


# -- slices ----------------------------------------------------------------------------------------


async def slices(*answers: int) -> tuple[int, list[int]]:
    """Delete as many jobs as is answered, in no time; return the total, and how many were asked for each time."""
    given, asked = iter(answers), list[int]()

    async def expire(limit: int) -> int:
        asked.append(limit)
        return next(given)

    return await retention.in_slices(expire, lambda: 0.0), asked


async def test_what_others_have_deleted_meanwhile_is_not_taken_for_the_end() -> None:
    total, asked = await slices(1, 0, 2, 0, 0)
    assert (total, len(asked)) == (3, 5)


@pytest.mark.parametrize(("took", "pause"), [(0.01, 0.04), (0.1, 0.4), (3.0, 0.4)])
async def test_the_pause_is_for_the_work_and_not_for_the_waiting(
    monkeypatch: pytest.MonkeyPatch, took: float, pause: float
) -> None:
    """On a busy machine each call waits its turn. A longer pause for that would delete less than comes in."""
    now, asked, pauses = 0.0, list[int](), list[float]()

    async def expire(limit: int) -> int:
        nonlocal now
        now += took
        asked.append(limit)
        return limit if len(asked) < 3 else 0

    async def sleep(seconds: float) -> None:
        pauses.append(round(seconds, 9))

    monkeypatch.setattr(retention.anyio, "sleep", sleep)
    assert await retention.in_slices(expire, lambda: now) == 2 * retention.SLICE
    assert asked == [retention.SLICE] * 4
    assert pauses == [pause] * 3
