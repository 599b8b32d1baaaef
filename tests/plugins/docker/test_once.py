"""Programs: a container per step, its input on standard input and its output on standard output."""

import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import settle_down, until
from docker import APIClient
from docker_runs import (
    PATIENCE_SECONDS,
    Bed,
    Watched,
    aside,
    ended,
    error,
    finished,
    is_down,
    is_up,
    node_file,
    outcome,
    result,
    submitted,
)
from msgspec import Raw
from served import serve

from nodekit import ContainerFailed, ContainerOutput, Location, NotStarted, Secret, decode_payload
from nodekit.testing import make_step

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def runner(module_bed: Bed, anyio_backend: str) -> AsyncIterator[Watched]:
    bed = module_bed
    containers = [
        bed.program(env={"ADD": "1", "TOKEN": Secret("s3cret")}),
        bed.program("small", max_reply_bytes=1 << 20, memory="64MiB", read_only=True, user="1234"),
        bed.program("deaf", env={"NEVER_READS": "1"}),
        bed.program("wrong", user="nobody-knows"),
        bed.program("open", output_in_errors=True),
    ]
    async with bed.runner(*containers) as runner:
        yield runner


async def run(runner: Watched, data: Any, container: str = "one") -> Any:
    output = await runner.run(make_step(container, data))
    assert output.instance
    return output.value


async def fault(runner: Watched, data: Any, container: str = "one") -> tuple[str, str]:
    with pytest.raises(ContainerFailed) as raised:
        await runner.run(make_step(container, data))
    return raised.value.kind, raised.value.text


async def nothing_is_left(bed: Bed) -> None:
    """Wait until no container is left: their removal is not awaited."""
    await until(lambda: bed.made() == [])


# -- what goes in and comes out -------------------------------------------------------------------


async def test_data_is_the_input_and_what_is_printed_is_the_output(module_bed: Bed, runner: Watched) -> None:
    given = {"text": "grüße", "numbers": [1, -0.5, None]}
    assert await run(runner, given) == given
    assert await run(runner, 41) == 42
    await nothing_is_left(module_bed)


async def test_what_else_a_container_is_told_is_in_its_environment(runner: Watched) -> None:
    step = make_step("one", {"do": "report"})
    output = await runner.run(step)
    env = output.value["env"]
    assert env["NODEKIT_IDEMPOTENCY_KEY"] == step.idempotency_key
    assert (env["NODEKIT_SOURCE"], env["NODEKIT_DESTINATION"], env["NODEKIT_REQUIRES_PROOF"]) == ("1", "1", "false")
    assert env["TOKEN"] == "s3cret"


async def test_a_stream_has_the_output_in_one_piece(runner: Watched) -> None:
    async with runner.stream(make_step("one", {"a": 1}, destination=Location.STREAM)) as pieces:
        given = [piece async for piece in pieces]
    assert [decode_payload(Raw(piece)) for piece in given] == [await run(runner, {"a": 1})]


async def test_much_goes_in_and_comes_out(runner: Watched) -> None:
    assert await run(runner, {"do": "size", "text": "x" * (5 << 20)}) == 5 << 20
    assert len(await run(runner, {"do": "large", "characters": 5 << 20})) == 5 << 20


async def test_one_that_does_not_read_its_input_is_no_failure(runner: Watched) -> None:
    assert await run(runner, "x" * (4 << 20), "deaf") == "read nothing"


async def test_it_may_do_as_little_as_others_and_has_no_network(runner: Watched) -> None:
    report = await run(runner, {"do": "report", "write": ["/x"]}, "small")
    assert (report["capabilities"], report["no_new_privileges"], report["uid"]) == (0, True, 1234)
    assert report["memory_limit"] == str(64 << 20)
    assert "Read-only" in report["write"]["/x"]
    assert set(report["addresses"]) <= {"lo"}


# -- what goes wrong ------------------------------------------------------------------------------


async def test_an_exit_code_is_a_fault_with_the_last_lines_of_standard_error_if_clients_may_see_them(
    runner: Watched,
) -> None:
    lines = [f"line {number}" for number in range(40)] + ["\x1b[31mno such model"]
    kind, text = await fault(runner, {"do": "fail", "code": 3, "lines": lines})
    assert kind == "status"
    assert text == "the container exited with code 3"
    kind, text = await fault(runner, {"do": "fail", "code": 3, "lines": lines}, "open")
    assert kind == "status"
    assert text == r"the container exited with code 3; it printed last: line 38 | line 39 | \x1b[31mno such model"


async def test_one_that_is_killed_and_one_that_runs_out_of_memory_have_died(runner: Watched) -> None:
    assert await fault(runner, {"do": "die"}) == ("died", "the container was killed by SIGKILL")
    kind, text = await fault(runner, {"do": "eat"}, "small")
    assert kind == "died"
    assert text.startswith("the container ran out of memory and was killed (its limit is 64MiB; `memory` raises it)")


@pytest.mark.parametrize(
    ("printed", "fault_text"),
    [
        ("done!", "the reply is not JSON: "),
        ("", "the reply is empty"),
        ("[" * 200 + "]" * 200, "the reply is nested"),
    ],
)
async def test_what_is_no_json_is_a_fault(runner: Watched, printed: str, fault_text: str) -> None:
    for container, shown in (("one", False), ("open", True)):
        kind, text = await fault(runner, {"do": "raw", "text": printed, "lines": ["said aside"]}, container)
        assert kind == "not_json"
        assert text.startswith(fault_text)
        assert text.endswith("it printed last: said aside") is shown


async def test_one_that_prints_a_gigabyte_is_killed_long_before(module_bed: Bed, runner: Watched) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        kind, text = await fault(runner, {"do": "flood", "mebibytes": 1024}, "small")
    assert (kind, text) == ("too_large", "the reply is larger than 1048576 bytes; it was killed")
    await nothing_is_left(module_bed)


async def test_much_on_standard_error_is_no_fault_and_is_not_kept(runner: Watched) -> None:
    assert await run(runner, {"do": "flood", "mebibytes": 8, "to": "stderr", "then": "well"}, "small") == "well"


async def test_what_the_engine_refuses_is_said_in_words_of_the_node_file(module_bed: Bed, runner: Watched) -> None:
    kind, text = await fault(runner, 1, "wrong")
    assert (kind, text) == (
        "died",
        "the container could not be run: the image knows no user nobody-knows; give `user` as a number",
    )
    await nothing_is_left(module_bed)


async def test_an_image_that_is_not_there_keeps_the_node_from_starting(bed: Bed) -> None:
    with pytest.raises(NotStarted, match='image nodekit-test/none:1 is not on this machine, and pull = "never"'):
        async with bed.runner(bed.program(image="nodekit-test/none:1")):
            pass


async def test_an_image_that_is_removed_meanwhile_takes_the_container_down_until_it_is_back(bed: Bed) -> None:
    client, image = bed.engine.client, f"nodekit-test/passing:{bed.node}"
    there = client.images.get(bed.engine.images.program)
    there.tag(image)
    async with bed.running(bed.program(image=image, when_down="fail")) as (node, runner):
        client.images.remove(image)
        assert error(await outcome(node, 1)).kind == "connection"
        await is_down(runner)
        assert f"container 'one' is down: image {image} is not on this machine" in runner.problems()[0]
        there.tag(image)
        await is_up(runner)
        assert await result(node, 1) == 1
    client.images.remove(image)


# -- being given up -------------------------------------------------------------------------------


async def test_cancelling_a_job_kills_its_program_at_once(bed: Bed) -> None:
    async with bed.running(bed.program()) as (node, _):
        job = await submitted(node, {"do": "sleep", "seconds": 600})
        await until(lambda: [one.status for one in bed.made()] == ["running"])
        await node.cancel(job.id)
        await nothing_is_left(bed)
        assert await result(node, 1) == 1


async def test_one_that_somebody_removes_has_died(bed: Bed) -> None:
    async with bed.running(bed.program()) as (node, _):
        job = await submitted(node, {"do": "sleep", "seconds": 600})
        await until(lambda: [one.status for one in bed.made()] == ["running"])
        await aside(lambda: bed.one().remove(force=True))
        (ended,) = await finished(node, job)
        assert error(ended).kind == "died"
        assert error(ended).error in ("the container was removed", "the container was killed by SIGKILL")


async def test_a_step_that_is_given_up_while_it_begins_leaves_nothing(bed: Bed) -> None:
    async with bed.runner(bed.program()) as runner:
        for seconds in (0.01, 0.05, 0.1, 0.2, 0.4):
            with anyio.move_on_after(seconds):
                await runner.run(make_step("one", {"do": "sleep", "seconds": 600}))
        assert await run(runner, 1) == 1
        await nothing_is_left(bed)


async def test_a_container_that_is_there_only_after_its_step_was_given_up_is_removed_too(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, given_up, made = threading.Event(), threading.Event(), threading.Event()
    create = APIClient.create_container_from_config

    def late(*arguments: Any) -> Any:
        begun.set()
        assert given_up.wait(PATIENCE_SECONDS)
        try:
            return create(*arguments)
        finally:
            made.set()

    async with bed.runner(bed.program()) as runner:
        monkeypatch.setattr(APIClient, "create_container_from_config", late)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, make_step("one", 1))
            await until(begun.is_set)
            tasks.cancel_scope.cancel()
        await settle_down()
        given_up.set()
        await until(made.is_set)
        await nothing_is_left(bed)


async def test_a_step_that_takes_too_long_is_killed(bed: Bed) -> None:
    async with bed.running(bed.program(timeout_seconds=1.5)) as (node, _):
        failed = error(await outcome(node, {"do": "sleep", "seconds": 600}))
        assert (failed.kind, failed.error) == ("timeout", "no reply within 1.5 s")
        await nothing_is_left(bed)


async def test_leaving_removes_programs_that_run(bed: Bed) -> None:
    async with bed.runner(bed.program()) as runner, anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, make_step("one", {"do": "sleep", "seconds": 600}))
        await until(bed.made)
        tasks.cancel_scope.cancel()
    assert await aside(bed.made) == []


async def test_after_kill_9_in_mid_step_the_step_is_run_again_and_nothing_is_left(bed: Bed, tmp_path: Path) -> None:
    entry = {"id": "one", "mode": "once", "image": bed.engine.images.program, "concurrency": 4}
    file = node_file(tmp_path, bed, entry | {"stop_seconds": 5})
    async with serve(file) as (process, api):
        jobs = [await api.submit("one", do="sleep", seconds=1.5, then=number) for number in range(3)]
        await until(lambda: [one.status for one in bed.made()] == ["running"] * 3)
        before = {one.id for one in await aside(bed.made)}
        process.signal(signal.SIGKILL)
        await process.ended()
    async with serve(file) as (process, api):
        assert not before & {one.id for one in await aside(bed.made)}
        results = await api.results(*jobs)
        assert [job["result"]["output"] for job in results] == [0, 1, 2]
        await ended(process)
    assert await aside(bed.made) == []


# -- in a node ------------------------------------------------------------------------------------


async def test_programs_and_served_containers_make_a_pipeline(bed: Bed) -> None:
    first, last = bed.program("first", env={"ADD": "1"}), bed.program("last", env={"ADD": "100"})
    async with bed.running(first, bed.container("served", env={"ADD": "10"}), last) as (node, _):
        assert await result(node, 1, "first", "served", "last") == 112


async def test_many_steps_at_once_all_come_to_their_end_and_leave_nothing(bed: Bed) -> None:
    async with bed.running(bed.program(env={"ADD": "1"}, concurrency=16)) as (node, _):
        jobs = [await submitted(node, number) for number in range(24)]
        ends = await finished(node, *jobs)
        assert [job.result.value for job in ends if isinstance(job.result, ContainerOutput)] == list(range(1, 25))
        await nothing_is_left(bed)


async def test_two_nodes_leave_each_others_programs_alone(bed: Bed) -> None:
    async with bed.runner(bed.program(), node=f"{bed.node}-a") as first, anyio.create_task_group() as tasks:
        outputs: list[Any] = []

        async def slow() -> None:
            outputs.append(await run(first, {"do": "sleep", "seconds": 2, "then": "slept"}))

        tasks.start_soon(slow)
        await until(bed.made)
        async with bed.runner(bed.program(), node=f"{bed.node}-b") as second:
            assert await run(second, 1) == 1
        await until(lambda: outputs == ["slept"])


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # docker-py does not close what fails
async def test_a_program_is_down_while_the_engine_is_and_what_ran_is_a_fault(bed: Bed, dockerd: Any) -> None:
    async with bed.running(bed.program()) as (node, runner):
        job = await submitted(node, {"do": "sleep", "seconds": 600})
        await until(lambda: [one.status for one in bed.made()] == ["running"])
        await aside(dockerd.kill)
        (failed,) = await finished(node, job)
        assert "the Docker engine does not answer" in error(failed).error
        await is_down(runner)
        await aside(dockerd.start)
        await is_up(runner)
        assert await result(node, 1) == 1
        await nothing_is_left(bed)
