"""Tests in which a real Prometheus reads a running node, and knows what the node has done."""

import json
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pytest

from nodekit import Node, NodeLimits
from nodekit.testing import make_request
from nodekit_asgi import AsgiConfig, AsgiTransport
from nodekit_function import FunctionRunner
from nodekit_metrics import Metrics
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

SECONDS = 60.0
PACKAGE = files("nodekit_metrics")

CONFIG = """
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: [{alerts}]
scrape_configs:
  - job_name: nodekit
    metrics_path: /-/metrics/
    static_configs:
      - targets: ["{target}"]
"""


class Server:
    """A running Prometheus, used through its HTTP API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def ask(self, path: str, **query: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{path}", params=query) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Return the values by label values, in the order of the labels' names."""
        found = await self.ask("query", query=expression)
        return {
            tuple(value for name, value in sorted(one["metric"].items())): float(one["value"][1])
            for one in found["result"]
        }

    async def ready(self) -> bool:
        try:
            async with self._session.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Check repeatedly for a limited time."""
    with anyio.fail_after(SECONDS):
        while not await condition():
            await anyio.sleep(0.2)


@asynccontextmanager
async def running(program: Path, folder: Path, target: str) -> AsyncIterator[Server]:
    """Run a Prometheus with its own data, which reads one target."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(alerts=PACKAGE / "alerts.yml", target=target))
    command = [str(program), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={address}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        async with aiohttp.ClientSession() as session:
            server = Server(f"http://{address}", session)

            async def ready() -> bool:
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                return await server.ready()

            await until(ready)
            yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Node]:
    """Run a node with a container that works, one that fails and one that is slow."""
    runner = FunctionRunner()

    @runner.container("echo")
    async def echo(data: Any) -> Any:
        return data

    @runner.container("fail")
    async def fail(data: Any) -> Any:
        raise ValueError("on purpose")

    @runner.container("wait")
    async def wait(data: Any) -> Any:
        await anyio.sleep_forever()

    transport = AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0", stop_seconds=0))
    node = Node(
        store=SqliteStore(folder / "jobs.db", synchronous="NORMAL"),
        runners=[runner],
        transports=[transport],
        plugins=[Metrics()],
        limits=NodeLimits(drain_seconds=0),
    )
    async with node:
        yield node


async def work(node: Node) -> None:
    """Submit jobs: five succeed in two steps, two fail, one is cancelled, three go on, four are refused."""
    jobs = [await node.submit(make_request("echo", "echo", client=f"client-{n}")) for n in range(5)]
    jobs += [await node.submit(make_request("echo", "fail")) for _ in range(2)]
    await node.wait([job.id for job in jobs])
    await node.cancel((await node.submit(make_request("wait"))).id)
    await node.submit_many([make_request("wait") for _ in range(3)])
    await node.submit_many([make_request("nope") for _ in range(4)])


async def test_prometheus_knows_what_the_node_has_done(prometheus: Path, tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        target = node.urls[0].removeprefix("http://")
        async with running(prometheus, tmp_path, target) as server:
            await until(lambda: is_up(server))
            await work(node)
            with_jobs = "sum by (container, outcome) (nodekit_jobs_total) > 0"
            expected = {("echo", "success"): 5.0, ("fail", "failed"): 2.0, ("wait", "cancelled"): 1.0}
            await until(lambda: says(server, with_jobs, expected))
            await until(lambda: says(server, "sum(nodekit_jobs_in_flight)", {(): 3.0}))
            assert await server.query("sum by (reason) (nodekit_refusals_total)") == {("Container not supported",): 4}
            steps = "sum by (container, outcome) (nodekit_step_seconds_count) > 0"
            assert await server.query(steps) == {("echo", "success"): 12, ("fail", "failed"): 2}
            assert await server.query("sum by (origin) (nodekit_jobs_pending)") == {("offchain",): 3, ("onchain",): 0}
            assert await server.query("sum(nodekit_store_call_failures_total)") == {(): 0}
            assert await server.query("min(nodekit_container_running)") == {(): 1}
            assert await server.query("sum(nodekit_jobs_queued)") == {(): 0}
            assert await server.query("nodekit_store_bytes > 0 and nodekit_store_free_bytes > 0")
            await check_dashboard(server)
            await check_alerts(server)


async def is_up(server: Server) -> bool:
    targets = (await server.ask("targets", state="active"))["activeTargets"]
    return [target["health"] for target in targets] == ["up"]


async def says(server: Server, expression: str, expected: dict[tuple[str, ...], float]) -> bool:
    return await server.query(expression) == expected


async def check_dashboard(server: Server) -> None:
    """Check that every panel has data: Prometheus understands its queries and has values for them."""
    for panel in json.loads((PACKAGE / "grafana.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m")
            for variable in ("$job", "$instance"):
                expression = expression.replace(variable, ".*")
            assert "$" not in expression
            await until(lambda expression=expression: server.query(expression))  # rates take two readings


async def check_alerts(server: Server) -> None:
    """Check that Prometheus understands the alerts. Two of two jobs failed in a container; nothing else is wrong."""

    async def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in await rules(server))

    await until(evaluated)
    assert {rule["health"] for rule in await rules(server)} == {"ok"}
    states = {rule["name"]: rule["state"] for rule in await rules(server)}
    assert "NodekitJobsFail" in states
    assert {name for name, state in states.items() if state == "firing"} == set()


async def rules(server: Server) -> list[dict[str, Any]]:
    return [rule for group in (await server.ask("rules"))["groups"] for rule in group["rules"]]


async def test_the_page_is_as_prometheus_wants_it(promtool: Path, tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        await work(node)
        async with aiohttp.ClientSession() as session, session.get(f"{node.urls[0]}/-/metrics/") as response:
            page = await response.read()
    done = subprocess.run([str(promtool), "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_alerts_are_as_prometheus_wants_them(promtool: Path) -> None:
    command = [str(promtool), "check", "rules", str(PACKAGE / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
