"""Tests of the page with the metrics, over HTTP."""

import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from prometheus_client import Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from nodekit import Job, Node, NodeLimits, QueueState, Refusal, RequestRefused, StoreFailed, load_node
from nodekit.testing import Faults, make_request
from nodekit_asgi import AsgiConfig, AsgiTransport
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryStore
from nodekit_metrics import Metrics, MetricsConfig
from nodekit_metrics._now import _queues
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

PAGE = "/-/metrics/"
LIMITS = NodeLimits()


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def values(self, parse: Callable[[str], Any] = parse_text) -> dict[str, float]:
        """The values by name and labels, as written on the page."""
        return {
            f"{sample.name}{dict(sorted(sample.labels.items()))}": sample.value
            for family in parse(self.body.decode())
            for sample in family.samples
        }


class Served:
    def __init__(self, node: Node, session: aiohttp.ClientSession) -> None:
        self.node, self._session = node, session

    async def ask(self, path: str = PAGE, method: str = "GET", **headers: str) -> Answer:
        options = {"Accept-Encoding": "identity", **{key.replace("_", "-"): value for key, value in headers.items()}}
        async with self._session.request(method, self.node.urls[0] + path, headers=options) as response:
            return Answer(response.status, response.headers, await response.read())


def runner() -> FunctionRunner:
    functions = FunctionRunner()

    @functions.container("echo")
    async def echo(data: Any) -> Any:
        return data

    return functions


@asynccontextmanager
async def serving(
    metrics: Metrics, *, store: Any = None, functions: Any = None, limits: NodeLimits = LIMITS, **config: Any
) -> AsyncIterator[Served]:
    transport = AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0", stop_seconds=0, **config))
    runners = [functions or runner()]
    node = Node(store=store or MemoryStore(), runners=runners, transports=[transport], plugins=[metrics], limits=limits)
    async with node, aiohttp.ClientSession(auto_decompress=False) as session:
        yield Served(node, session)


async def test_the_page_says_what_happened_and_how_the_node_is() -> None:
    succeeded = "nodekit_jobs_total{'container': 'echo', 'outcome': 'success'}"
    async with serving(Metrics()) as served:
        job = await served.node.submit(make_request("echo"))
        await served.node.wait([job.id])
        with anyio.fail_after(60):
            while not (found := (await served.ask()).values())[succeeded]:
                pass
    assert found["nodekit_jobs_pending{'origin': 'offchain'}"] == 0
    assert found["nodekit_jobs_pending_max{}"] == served.node.limits.max_pending
    assert found["nodekit_jobs_in_flight{}"] == 0
    assert found["nodekit_jobs_in_flight_max{}"] == served.node.limits.concurrency
    assert found["nodekit_container_running{'container': 'echo'}"] == 1
    assert found["process_resident_memory_bytes{}"] > 0


async def test_readers_get_the_format_and_the_compression_that_they_ask_for() -> None:
    async with serving(Metrics()) as served:
        plain = await served.ask()
        assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        asked = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        openmetrics = await served.ask(Accept=asked)
        assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert openmetrics.body.endswith(b"# EOF\n")
        names = "nodekit_jobs_accepted_total{'origin': 'offchain'}"
        assert openmetrics.values(parse_openmetrics)[names] == plain.values()[names] == 0
        packed = await served.ask(Accept_Encoding="gzip")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert b"nodekit_jobs_accepted_total" in gzip.decompress(packed.body)
        for version in ("new", "1.x", "9.0.0", "", "1;escaping=odd"):
            assert (await served.ask(Accept=f"application/openmetrics-text;version={version}")).status == 200


async def test_readers_can_ask_for_some_metrics_and_for_headers_alone() -> None:
    async with serving(Metrics()) as served:
        some = await served.ask(PAGE + "?name[]=nodekit_jobs_in_flight&name[]=nodekit_build_info")
        assert {key.partition("{")[0] for key in some.values()} == {"nodekit_jobs_in_flight", "nodekit_build_info"}
        head = await served.ask(method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["Content-Length"]) > 1000


async def test_what_is_no_page_says_so() -> None:
    async with serving(Metrics()) as served:
        assert (await served.ask(PAGE + "more")).status == 404
        refused = await served.ask(method="POST")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")


async def test_the_page_is_public_unless_told_otherwise() -> None:
    far = {"X_Forwarded_For": "203.0.113.7"}
    async with serving(Metrics(), trusted_proxies=("127.0.0.1",)) as served:
        assert (await served.ask(**far)).status == 200
    async with serving(Metrics(MetricsConfig(public=False)), trusted_proxies=("127.0.0.1",)) as served:
        assert (await served.ask(**far)).status == 403
        assert (await served.ask()).status == 200


async def test_the_process_is_left_out_where_it_is_not_wanted() -> None:
    async with serving(Metrics(MetricsConfig(process=False))) as served:
        names = {key.partition("{")[0] for key in (await served.ask()).values()}
    assert names
    assert all(name.startswith("nodekit_") for name in names)


async def test_a_store_that_fails_takes_no_metrics_away_but_its_own() -> None:
    faults = Faults()
    async with serving(Metrics(), store=faults.around(MemoryStore())) as served:
        faults.before("pending").fail(StoreFailed("the disk is gone"))
        found = (await served.ask()).values()
        again = (await served.ask()).values()
        faults.lift()
    assert not any(key.startswith("nodekit_jobs_pending{") for key in found)
    assert found["nodekit_container_running{'container': 'echo'}"] == 1
    assert again["nodekit_store_call_failures_total{'method': 'pending'}"] == 2


async def test_queued_jobs_and_the_oldest_of_them_are_on_the_page() -> None:
    runner, held = FunctionRunner(), anyio.Event()

    @runner.container("wait")
    async def wait(data: Any) -> Any:
        await held.wait()
        return data

    async with serving(Metrics(), functions=runner, limits=NodeLimits(concurrency=1, drain_seconds=0)) as served:
        before = (await served.ask()).values()
        assert before["nodekit_jobs_queued{'container': 'wait'}"] == 0
        assert before["nodekit_queue_oldest_seconds{'container': 'wait'}"] == 0
        jobs = await served.node.submit_many([make_request("wait") for _ in range(3)])
        await until_in_flight(served.node, 1)
        first, second = (await served.ask()).values(), (await served.ask()).values()
        assert first["nodekit_jobs_queued{'container': 'wait'}"] == 2
        age = "nodekit_queue_oldest_seconds{'container': 'wait'}"
        assert 0 <= first[age] < second[age]
        held.set()
        await served.node.wait([job.id for job in jobs if isinstance(job, Job)])
        assert (await served.ask()).values()[age] == 0


async def until_in_flight(node: Node, number: int) -> None:
    with anyio.fail_after(60):
        while node.in_flight != number:
            await anyio.sleep(0.01)


def test_jobs_of_containers_that_are_gone_are_counted_together() -> None:
    found = {"echo": QueueState(1, 5.0), "gone": QueueState(2, 7.0), "gone too": QueueState(3, 6.0)}
    queues = _queues(found, own=["echo", "idle"], known={"echo", "idle"})
    assert queues == {"echo": QueueState(1, 5.0), "idle": QueueState(0), "other": QueueState(5, 7.0)}


async def test_the_size_of_the_store_and_the_free_disk_are_on_the_page_if_it_is_on_one(tmp_path: Path) -> None:
    async with serving(Metrics(), store=SqliteStore(tmp_path / "jobs.db")) as served:
        values = (await served.ask()).values()
        assert values["nodekit_store_bytes{}"] == sum(file.stat().st_size for file in tmp_path.glob("jobs.db*"))
        assert values["nodekit_store_free_bytes{}"] > 0
    async with serving(Metrics(), store=MemoryStore()) as served:
        assert not any(key.startswith("nodekit_store_bytes") for key in (await served.ask()).values())


async def test_many_readers_at_once_are_all_answered() -> None:
    async with serving(Metrics()) as served:
        answers: list[Answer] = []

        async def read() -> None:
            answers.append(await served.ask())

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(read)
    assert [answer.status for answer in answers] == [200] * 20


async def test_metrics_of_ones_own_are_on_the_page_too() -> None:
    metrics = Metrics()
    Counter("mine_total", "Of mine.", registry=metrics.registry).inc(3)
    async with serving(metrics) as served:
        assert (await served.ask()).values()["mine_total{}"] == 3


async def test_a_node_file_names_it(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[store]\nuse = "memory"\n[[transports]]\nuse = "asgi"\nbind = "127.0.0.1:0"\n'
        '[[plugins]]\nuse = "metrics"\npublic = false\nprocess = false\nlag_interval_seconds = 0.1\n'
    )
    async with load_node(file) as node, aiohttp.ClientSession() as session:
        assert not node.mounts["metrics"].public
        answer = await Served(node, session).ask()
    assert answer.status == 200
    assert b"nodekit_build_info" in answer.body


async def test_a_reason_that_cannot_be_encoded_does_not_break_the_page() -> None:
    metrics = Metrics()
    async with serving(metrics) as served:
        objection = Refusal("no \ud800")
        metrics.nodekit_observe(RequestRefused("alice", objection), served.node)
        answer = await served.ask()
        assert answer.status == 200
        assert answer.values()["nodekit_refusals_total{'reason': 'no ?'}"] == 1
