"""Promises of a `Transport`, independent of its protocol."""

import threading
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from nodekit import JobId, NodekitError, Refusal, StoreFailed, Transport, Unavailable
from nodekit.testing.contracts.transports.listening import Watched, address_of, listens, taken, unix_path
from nodekit.testing.contracts.transports.served import Served
from nodekit.testing.contracts.transports.serving import Limiting, TransportBase
from nodekit.testing.leaks.detectors import no_leaks, unblocked_loop


class TransportContract(TransportBase):
    """Suite of a transport. Define the fixture `transport`: not served yet, to listen at a free port of 127.0.0.1.

    `submit` and `fetch` implement a client's requests. A transport that listens at a unix socket reports a URL
    ``unix:/path``. Its suite sets `clients = ("unix",)`, and overrides `another`: the second one listens at another
    path.
    """

    # -- starting and ending ----------------------------------------------------------------------

    def test_it_ends_soon_once_it_is_cancelled(
        self, transport: Transport, anyio_backend_name: str, anyio_backend_options: dict[str, Any]
    ) -> None:
        """Run in a thread, so that a transport that does not end holds up only this test."""
        leaving, failures = threading.Event(), list[BaseException]()

        async def serve() -> None:
            async with self.serving(transport) as served, self.stalled(served.url):
                await self.works(served.url)
                leaving.set()
            await anyio.sleep(self.quiet_seconds)  # event loops release closed sockets in a later turn

        def run() -> None:
            try:
                anyio.run(serve, backend=anyio_backend_name, backend_options=anyio_backend_options)
            except BaseException as error:
                failures.append(error)
            finally:
                leaving.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert leaving.wait(2 * self.timeout_seconds), "nothing was served"
        thread.join(self.stop_seconds)
        assert not thread.is_alive(), f"it goes on {self.stop_seconds:g} s after it was cancelled"
        if failures:
            raise failures[0]

    async def test_it_says_once_where_it_listens_and_not_before_it_does(self, transport: Transport) -> None:
        watched = Watched(transport)
        async with self.serving(watched) as served:
            assert watched.times == 1
            assert watched.said, "it must report its URLs by task_status.started(urls), and did not"
            assert served.node.urls == watched.said
            assert watched.early == [], "it reported its URLs, and nobody could connect"
            assert [url for url in watched.said if not listens(url)] == []

    async def test_it_serves_once_the_node_is_entered(self, transport: Transport) -> None:
        async with self.serving(transport) as served:
            await self.works(served.url, n=1)

    async def test_a_port_that_is_taken_is_an_error_that_names_the_address(self, transport: Transport) -> None:
        second = self.copied(transport)
        async with self.serving(transport) as served:
            url = served.url
        with taken(url) as port:
            with pytest.raises(NodekitError) as raised:
                async with self.serving(second, port=port):
                    raise AssertionError("the node started although nobody can reach it")
            place = unix_path(url) or "127.0.0.1"
            assert place in str(raised.value), f"it does not say which address cannot be listened at: {place}"

    async def test_its_port_is_free_again_when_the_node_has_ended(self, transport: Transport) -> None:
        second = self.copied(transport)
        async with self.serving(transport) as served, self.stalled(served.url):
            await self.works(served.url)
        assert not listens(served.url)
        address = address_of(served.url)
        async with self.serving(second, port=None if isinstance(address, str) else address[1]) as again:
            assert again.node.urls == served.node.urls
            await self.works(again.url)

    async def test_it_leaves_nothing_behind(self, transport: Transport) -> None:
        async with no_leaks(), self.serving(transport) as served:
            async with self.stalled(served.url):
                await self.works(served.url)
            async with self.stalled(served.url):
                await self.works(served.url)
                served.table.keeps = anyio.Event()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self.submit, served.url, "echo")
                    await self.until(lambda: served.table.adding)
                    tasks.cancel_scope.cancel()
                served.table.keeps.set()

    async def test_while_the_node_drains_it_still_answers(self, transport: Transport) -> None:
        leave, left = anyio.Event(), anyio.Event()

        async def run(*, task_status: TaskStatus[Served]) -> None:
            async with self.serving(transport, drain_seconds=60) as served:
                task_status.started(served)
                await leave.wait()
            left.set()

        async with anyio.create_task_group() as tasks:
            served: Served = await tasks.start(run)
            id = await self.submit(served.url, "gate", data={"n": 1})
            await self.until(lambda: "gate" in served.runner.calls)
            leave.set()
            await self.eventually(served.node.health, lambda health: not health.healthy)
            with pytest.raises(Unavailable) as raised:
                await self.submit(served.url, "echo")
            assert raised.value.retry_after_seconds >= 1
            assert (await self.fetch(served.url, id))["status"] == "running"
            served.runner.opened.set()
            with anyio.fail_after(self.stop_seconds + self.timeout_seconds):
                await left.wait()

    # -- several at once --------------------------------------------------------------------------

    async def test_several_serve_one_node(self, transport: Transport) -> None:
        async with self.serving(transport, self.another(transport)) as served:
            first, second = served.node.urls
            id = await self.submit(first, "echo", data={"n": 1})
            assert (await self.finished(second, id))["result"] == {"container": "echo", "output": {"n": 1}}

    async def test_those_of_two_nodes_share_nothing(self, transport: Transport) -> None:
        async with self.serving(transport) as one, self.serving(self.another(transport)) as other:
            id = await self.submit(one.url, "echo")
            assert await self.fetch(other.url, id) is None
            await self.works(other.url)
            assert (len(one.table.jobs), len(other.table.jobs)) == (1, 1)

    async def test_clients_at_once_each_get_their_own(self, transport: Transport) -> None:
        async with self.serving(transport) as served, anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(partial(self.works, served.url, n=number))

    async def test_the_event_loop_goes_round_while_it_serves(self, transport: Transport) -> None:
        async with self.serving(transport) as served, unblocked_loop():
            for number in range(3):
                await self.works(served.url, n=number)

    async def test_clients_that_stall_hold_up_no_other(self, transport: Transport) -> None:
        async with self.serving(transport) as served, AsyncExitStack() as stack:
            for _ in range(10):
                await stack.enter_async_context(self.stalled(served.url))
            await self.works(served.url)

    async def test_a_request_that_takes_long_holds_up_no_other(self, transport: Transport) -> None:
        async with self.serving(transport) as served, anyio.create_task_group() as tasks:
            id = await self.submit(served.url, "echo")
            await self.finished(served.url, id)
            served.table.keeps = anyio.Event()
            tasks.start_soon(self.submit, served.url, "echo")
            await self.until(lambda: served.table.adding)
            with anyio.fail_after(self.timeout_seconds):
                assert (await self.fetch(served.url, id))["status"] == "success"
            served.table.keeps.set()

    async def test_clients_that_go_away_harm_nobody(self, transport: Transport) -> None:
        async with self.serving(transport) as served:
            for _ in range(20):
                async with self.stalled(served.url):
                    pass
            served.table.keeps = anyio.Event()
            async with anyio.create_task_group() as tasks:  # these requests are in progress
                for _ in range(5):
                    tasks.start_soon(self.submit, served.url, "echo")
                await self.until(lambda: served.table.adding == 5)
                tasks.cancel_scope.cancel()
            served.table.keeps.set()
            await self.works(served.url)
            assert (await served.node.health()).healthy

    # -- answers to clients -----------------------------------------------------------------------

    async def test_a_job_is_reported_as_it_is(self, transport: Transport) -> None:
        async with self.serving(transport) as served:
            id = await self.submit(served.url, "echo", "gate", data={"text": "grüße", "list": [1, None, 1.5]})
            job = await self.fetch(served.url, id)
            assert (job["status"], job["result"]) == ("running", None)
            served.runner.opened.set()
            job = await self.finished(served.url, id)
            output = {"text": "grüße", "list": [1, None, 1.5]}
            assert (job["status"], job["result"]) == ("success", {"container": "gate", "output": output})
            failed = await self.finished(served.url, await self.submit(served.url, "fail"))
            assert (failed["status"], failed["result"]) == ("failed", {"container": "fail", "error": "on purpose"})

    async def test_an_id_is_sent_only_after_its_job_is_kept(self, transport: Transport) -> None:
        ids: list[JobId] = []

        async def ask(url: str) -> None:
            ids.append(await self.submit(url, "echo"))

        async with self.serving(transport) as served:
            served.table.keeps = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, served.url)
                await self.until(lambda: served.table.adding)
                await anyio.sleep(self.quiet_seconds)
                assert ids == [], "an id was sent before its job was kept"
                served.table.keeps.set()
            assert await self.fetch(served.url, ids[0]) is not None

    async def test_a_refusal_is_sent_with_its_reason_and_params(self, transport: Transport) -> None:
        async with self.serving(transport) as served:
            for containers, reason, params in (
                (["inner"], "First container must be external", {"first_container": "inner"}),
                (["echo", "nope"], "Container not supported", {"container": "nope"}),
            ):
                with pytest.raises(Refusal) as raised:
                    await self.submit(served.url, *containers)
                assert (raised.value.reason, raised.value.params) == (reason, params)
            assert served.table.jobs == {}
            await self.works(served.url)

    async def test_a_node_that_takes_no_more_says_so_and_when_to_ask_again(self, transport: Transport) -> None:
        async with self.serving(transport, max_pending=1) as served:
            await self.submit(served.url, "gate")
            with pytest.raises(Unavailable) as raised:
                await self.submit(served.url, "echo")
            assert raised.value.reason
            assert raised.value.retry_after_seconds >= 1
            served.runner.opened.set()
            await self.until(lambda: all(job.status.finished for job in served.table.jobs.values()))
            await self.works(served.url)

    async def test_a_job_that_cannot_be_kept_has_no_id(self, transport: Transport) -> None:
        async with self.serving(transport) as served:
            served.table.fails_to_add = StoreFailed("the disk is full")
            with pytest.raises(Unavailable):
                await self.submit(served.url, "echo")
            served.table.fails_to_add = None
            await self.works(served.url)

    async def test_a_fault_of_the_node_ends_one_request_and_no_more(self, transport: Transport) -> None:
        async with self.serving(transport) as served:
            id = await self.submit(served.url, "echo")
            served.table.fails_to_get = RuntimeError("a fault")
            with anyio.fail_after(self.timeout_seconds), pytest.raises(Exception):  # noqa: B017, PT011
                await self.fetch(served.url, id)
            served.table.fails_to_get = None
            await self.works(served.url)

    async def test_too_many_requests_of_a_client_are_refused(self, transport: Transport) -> None:
        limit = Limiting()
        async with self.serving(transport, plugins=[limit]) as served:
            await self.works(served.url)
            limit.refuses = True
            with pytest.raises(Unavailable) as raised:
                await self.submit(served.url, "echo")
            assert raised.value.retry_after_seconds == 7, "call Node.limit(identity) before reading a request"
            assert limit.asked

    async def test_the_jobs_of_one_client_are_no_others(self, transport: Transport) -> None:
        self.skip_without_clients()
        one, other = self.clients
        async with self.serving(transport) as served:
            id = await self.submit(served.url, "echo", source=one)
            assert await self.fetch(served.url, id, source=one) is not None
            assert await self.fetch(served.url, id, source=other) is None
            theirs = await self.submit(served.url, "echo", source=other)
            assert await self.fetch(served.url, theirs, source=other) is not None
            assert len({job.client for job in served.table.jobs.values()}) == 2
