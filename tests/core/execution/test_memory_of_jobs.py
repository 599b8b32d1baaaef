"""Jobs in the budget of memory: what a run holds, who waits, and who gets a turn."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from components import Gate, SwitchRunner, Told, functions, make_node, request, settle_down, until

from nodekit import (
    COPIES,
    LEFT_OUT,
    Container,
    ContainerOutput,
    Job,
    JobFields,
    JobStatus,
    Sequence,
    Step,
    encode_payload,
    output_of,
    reserve_output,
)
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

MEGABYTE = 1 << 20


async def test_a_run_holds_its_data_and_its_last_output(tmp_path: Path) -> None:
    gate, told = Gate(), Told()
    held: list[tuple[int, list[bool]]] = []

    async with make_node(functions(gate=gate), store=SqliteStore(tmp_path / "jobs.db"), plugins=[told]) as node:
        job = await node.submit(request("echo", "echo", "gate", x="y" * MEGABYTE))
        await until(lambda: gate.running == 1)
        run = told.events[-1].job
        held.append((node.budget.reserved, [output_of(result) == LEFT_OUT for result in run.results]))
        gate.opened.set()
        await node.wait([job.id])
        await settle_down()
        stored = (await node.fetch([job.id]))[0]
    ((reserved, left_out),) = held
    assert left_out == [True, False]
    assert 2 * MEGABYTE * COPIES < reserved < 2.2 * MEGABYTE * COPIES + node.budget.total // 16
    assert output_of(stored.results[0]) == stored.request.data
    assert node.budget.reserved <= node.budget.total // 16, "only the next claim has something reserved"


async def test_a_container_waits_while_its_output_has_no_room() -> None:
    asked, read = anyio.Event(), anyio.Event()

    async def run(step: Step) -> ContainerOutput:
        asked.set()
        await reserve_output(MEGABYTE)
        read.set()
        return ContainerOutput(container="large", output=encode_payload(1))

    runner = SwitchRunner(Container(id="large"), run=run)
    async with make_node(runner, memory="64MiB") as node:
        with node.budget.reservation() as all_of_it, node.budget.for_job("somebody") as overdrawing:
            await settle_down()
            await overdrawing.grow(2 * node.budget.total)
            all_of_it.add(1)
            assert not read.is_set()
            job = await node.submit(request("large"))
            await settle_down()
            overdrawing.release()
            all_of_it.release()
        (done,) = await node.wait([job.id])
    assert done.status is JobStatus.SUCCESS
    assert read.is_set()


async def test_a_large_job_of_many_steps_lets_others_go_between_two_of_them() -> None:
    steps = 12

    async def slow(data: Any) -> Any:
        await anyio.sleep(0.02)
        return data

    told = Told()
    async with make_node(functions(slow=slow), memory="64MiB", plugins=[told]) as node:
        large = await node.submit(request(*["slow"] * steps, x="y" * 11 * MEGABYTE))
        await until(lambda: len(told.events) > 3)
        small = []
        with anyio.fail_after(60):
            for _ in range(3):  # the first takes the place of the claim that has waited since before
                small.append((await node.submit(request("echo", client="bob"))).id)
                await node.wait(small, fields=JobFields.STATE)
            await node.wait([large.id], fields=JobFields.STATE)
        await until(lambda: len(told.ends()) == 4)
    assert [job.id for job in told.ends()] == [*small, large.id]
    (stored,) = told.ends(large.id)
    assert (stored.status, stored.ended_steps) == (JobStatus.SUCCESS, steps)


class AllOfThem(Sequence):
    """A pipeline whose last step gets the sizes of all outputs."""

    needs_all_outputs = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    def next_step(self, job: Job) -> Step | None:
        self.seen.append(sum(output_of(result) == LEFT_OUT for result in job.results))
        return super().next_step(job)


async def test_a_pipeline_that_needs_all_outputs_has_them_also_after_a_restart(tmp_path: Path) -> None:
    pipeline, gate = AllOfThem(), Gate()
    asked = request("echo", "echo", "gate")
    asked = type(asked)(containers=asked.containers, data=asked.data, client=asked.client, pipeline="all")
    store = tmp_path / "jobs.db"
    settings: Any = {"pipelines": {"all": pipeline}, "drain_seconds": 0}
    async with make_node(functions(gate=gate), store=SqliteStore(store), **settings) as node:
        job = await node.submit(asked)
        await until(lambda: gate.running == 1)
    gate.opened.set()
    async with make_node(functions(gate=gate), store=SqliteStore(store), **settings) as node:
        await node.wait([job.id])
    assert len(pipeline.seen) > 3
    assert not any(pipeline.seen)
