"""The budget of descriptors: the node queues instead of failing on open files."""

import os
import resource

import pytest
from components import Gate, SwitchRunner, functions, make_node, request, until

from nodekit import Container, ContainerOutput, Job, Step, descriptor_share, encode_payload
from nodekit.execution.descriptors import SPARE

pytestmark = pytest.mark.anyio


def allow(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))


@pytest.fixture
def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_third_of_what_is_free_is_for_each_purpose(monkeypatch: pytest.MonkeyPatch, open_files: int) -> None:
    allow(monkeypatch, open_files + SPARE + 300)
    assert descriptor_share() in (99, 100, 101)  # the descriptor of the folder that is read counts, too
    allow(monkeypatch, open_files)
    assert descriptor_share() == 1
    allow(monkeypatch, resource.RLIM_INFINITY)
    assert descriptor_share() is None


async def test_steps_that_would_take_more_descriptors_than_there_are_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, open_files: int
) -> None:
    gate = Gate()

    async def run(step: Step) -> ContainerOutput:
        await gate(None)
        return ContainerOutput(container=step.container, output=encode_payload({}))

    allow(monkeypatch, open_files + SPARE + 30)
    async with make_node(SwitchRunner(Container(id="x"), run=run), concurrency=100) as node:
        jobs = [job for job in await node.submit_many([request("x")] * 50) if isinstance(job, Job)]
        await until(lambda: gate.running >= 5)
        gate.opened.set()
        await node.wait([job.id for job in jobs])
    assert gate.calls == 50
    assert gate.most <= 11
    assert "for lack of descriptors" in caplog.text


async def test_functions_take_no_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, open_files: int
) -> None:
    gate = Gate()
    allow(monkeypatch, open_files + SPARE + 30)
    async with make_node(functions(gate=gate), concurrency=100) as node:
        await node.submit_many([request("gate", client="local")] * 100)
        await until(lambda: gate.running == 100)
        gate.opened.set()
    assert "for lack of descriptors" not in caplog.text


async def test_enough_descriptors_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async with make_node(SwitchRunner(Container(id="x")), concurrency=5) as node:
        await node.submit(request("x"))
    assert "for lack of descriptors" not in caplog.text
