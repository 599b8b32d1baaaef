"""Load of the runner: its requests to the engine, its time beside the engine's, and blocking of the event loop."""

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
import docker
import pytest
from docker_runs import PATIENCE_SECONDS, Bed, aside, result

pytestmark = pytest.mark.anyio

MANY = 16
IDLE_SECONDS = 7.0
TICK_SECONDS = 0.01


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


async def test_an_idle_runner_asks_the_engine_for_a_sign_of_life_and_nothing_else(bed: Bed, asked: list[str]) -> None:
    containers = [bed.container(str(number)) for number in range(3)]
    async with bed.running(*containers) as (node, runner):
        assert await result(node, 5, "0") == 5
        await anyio.sleep(1)  # the runner may inspect events of the start
        asked.clear()
        await anyio.sleep(IDLE_SECONDS)
        assert 1 <= len(asked) <= 2
        assert all(request.endswith("/_ping") for request in asked)
        assert len(runner.running()) == 3


async def test_many_start_in_the_engines_time_and_the_loop_goes_on(bed: Bed, engine: Any, asked: list[str]) -> None:
    image = engine.images.service
    started, answering = await aside(lambda: by_hand(engine, image))

    lags: list[float] = []
    containers = [bed.container(str(number)) for number in range(MANY)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, lags)
        asked.clear()
        began = time.monotonic()
        async with bed.runner(*containers) as runner:
            ours = time.monotonic() - began
            requests = len(asked)
            assert len(runner.running()) == MANY
            began = time.monotonic()
        left = time.monotonic() - began
        tasks.cancel_scope.cancel()
    lags.sort()
    assert requests / MANY < 10, "what is asked grows faster than the containers"
    print(
        f"\n{MANY} containers: {ours:.2f} s until all answer ({requests} requests), "
        f"{left:.2f} s to stop and remove them; "
        f"docker-py alone, 4 threads: {started:.2f} s until all are started, {answering:.2f} s until all answer; "
        f"lag of the loop: median {lags[len(lags) // 2] * 1000:.1f} ms, longest {lags[-1] * 1000:.1f} ms"
    )


async def watch(lags: list[float]) -> None:
    """Sample the delay of the event loop, again and again."""
    while True:
        began = time.monotonic()
        await anyio.sleep(TICK_SECONDS)
        lags.append(time.monotonic() - began - TICK_SECONDS)


def by_hand(engine: Any, image: str) -> tuple[float, float]:
    """Start the same number of containers by hand; return the seconds until all answer."""
    client = docker.APIClient(engine.host, timeout=60, max_pool_size=8)
    settings = client.create_host_config(
        init=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=512,
        mem_limit=128 << 20,
        memswap_limit=128 << 20,
        port_bindings={3000: ("127.0.0.1",)},
    )

    def start(_: int) -> str:
        id: str = client.create_container(image, ports=[3000], host_config=settings)["Id"]
        client.start(id)
        return id

    began = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(start, range(MANY)))
        started = time.monotonic() - began
        list(threads.map(lambda id: until_it_answers(client, id), ids))
        answering = time.monotonic() - began
        list(threads.map(lambda id: client.remove_container(id, force=True), ids))
    client.close()
    return started, answering


def until_it_answers(client: docker.APIClient, id: str) -> None:
    url = f"http://127.0.0.1:{client.port(id, 3000)[0]['HostPort']}/health"
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.02)
    raise TimeoutError(url)
