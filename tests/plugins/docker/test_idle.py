"""Load of the runner: its requests to the engine."""

from typing import Any

import anyio
import docker
import pytest
from docker_runs import Bed, result

pytestmark = pytest.mark.anyio

MANY = 8


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the requests to the engine through docker-py: method and path."""
    requests: list[str] = []
    send = docker.APIClient.send

    def counted(client: docker.APIClient, request: Any, **settings: Any) -> Any:
        requests.append(f"{request.method} {request.path_url.partition('?')[0]}")
        return send(client, request, **settings)

    monkeypatch.setattr(docker.APIClient, "send", counted)
    return requests


async def test_an_idle_runner_asks_the_engine_for_a_sign_of_life_and_nothing_else(
    bed: Bed, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodekit_docker.engine.presence.HEARTBEAT_SECONDS", 0.5)
    containers = [bed.container(str(number)) for number in range(3)]
    async with bed.running(*containers) as (node, runner):
        assert await result(node, 5, "0") == 5
        await anyio.sleep(1)  # the runner may inspect events of the start
        asked.clear()
        await anyio.sleep(2)  # how long it is watched
        assert 1 <= len(asked) <= 4
        assert all(request.endswith("/_ping") for request in asked)
        assert len(runner.running()) == 3


async def test_each_of_many_that_start_at_once_takes_a_few_requests(bed: Bed, asked: list[str]) -> None:
    async with bed.runner(*(bed.container(str(number)) for number in range(MANY))) as runner:
        assert len(asked) / MANY < 10, "what is asked grows faster than the containers"
        assert len(runner.running()) == MANY
