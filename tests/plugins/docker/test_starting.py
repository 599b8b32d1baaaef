"""The failure of a container that does not answer names the ports that its image exposes, and where it listens."""

import logging
from typing import Any

import anyio
import pytest
from components import until
from docker_runs import Bed

from nodekit import NotStarted

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 120


async def failure(bed: Bed, *containers: Any) -> NotStarted:
    with pytest.raises(NotStarted) as caught, anyio.fail_after(PATIENCE_SECONDS):
        async with bed.runner(*containers):
            pytest.fail("it has started")
    return caught.value


async def test_the_failure_names_the_exposed_ports_and_where_the_program_listens(bed: Bed) -> None:
    raised = await failure(bed, bed.container(port=4000, startup_seconds=2.0))
    assert "its program must listen on 0.0.0.0:4000 inside" in raised.reason
    assert ", and listens on 0.0.0.0:3000; its image" in raised.reason
    assert "; its image exposes 3000, not 4000: `port` of a node file names another port" in raised.reason


async def test_a_program_that_listens_elsewhere_than_its_image_says_is_told(bed: Bed) -> None:
    raised = await failure(bed, bed.container(env={"PORT": "8080"}, startup_seconds=2.0))
    assert raised.reason.endswith("0.0.0.0:3000 inside, and listens on 0.0.0.0:8080")


async def test_all_containers_that_do_not_start_are_named(bed: Bed) -> None:
    never = bed.container("never", image="nodekit-test/no-such-image:1")
    raised = await failure(bed, bed.container("crashes", env={"CRASH": "7"}), never, bed.container("fine"))
    assert "container 'crashes' did not start: it exited with code 7" in str(raised)
    assert "container 'never' did not start: image nodekit-test/no-such-image:1 is not on this machine" in str(raised)
    assert "'fine'" not in str(raised)
    assert bed.made() == []


async def test_the_log_says_what_is_waited_for(
    bed: Bed, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodekit_remote._progress.FIRST_SECONDS", 0.1)
    caplog.set_level(logging.INFO, "nodekit.docker")
    async with anyio.create_task_group() as tasks:
        runner = bed.runner(bed.container(env={"START_SECONDS": "600"}, startup_seconds=600.0))
        tasks.start_soon(runner.__aenter__)
        await until(lambda: "/health to answer: " in caplog.text and " s of 600 s)" in caplog.text)
        tasks.cancel_scope.cancel()
