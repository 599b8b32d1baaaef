"""Servers that keep too little, are full, busy or emptied: what a node is told, and what becomes of its jobs."""

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pytest
from redis_server import RedisServer
from stores import secret, store_on

from nodekit import ClaimLost, Job, JobQuery, JobStatus, Outcome, StoreFailed
from nodekit.testing import (
    SEQUENCE,
    make_function_runner,
    make_job,
    make_node,
    make_request,
    succeeded,
    with_output,
)
from nodekit_asgi import AsgiConfig, AsgiTransport
from nodekit_redis import RedisStore

pytestmark = pytest.mark.anyio
SECONDS = 30.0
CANCELLED = Outcome(JobStatus.CANCELLED)


@contextmanager
def setting(server: RedisServer, name: str, value: str, usual: str) -> Iterator[None]:
    assert server.call("CONFIG", "SET", name, value) == b"+OK\r\n"
    try:
        yield
    finally:
        server.call("CONFIG", "SET", name, usual)


async def comes(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(SECONDS):
        while not holds():
            await anyio.sleep(0.02)


async def refused(store: RedisStore, words: str) -> None:
    with pytest.raises(StoreFailed, match=words):
        async with store:
            pass


# -- at the start -------------------------------------------------------------------------------------


async def test_a_server_that_keeps_less_than_was_said_is_refused_with_the_setting(redis_server: RedisServer) -> None:
    with setting(redis_server, "appendfsync", "everysec", "always"):
        await refused(store_on(redis_server), "appendfsync is everysec.*CONFIG SET appendfsync always.*durability")
    with setting(redis_server, "appendfsync", "no", "always"):
        await refused(store_on(redis_server, durability="everysec"), "appendfsync is no.*CONFIG SET appendfsync every")
    with setting(redis_server, "appendonly", "no", "yes"):
        await refused(store_on(redis_server, durability="everysec"), "appendonly is no.*CONFIG SET appendonly yes")


async def test_a_loss_that_was_accepted_is_told_at_each_start(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "nodekit.store"):
        async with store_on(redis_server):
            assert caplog.messages == []
        with setting(redis_server, "appendfsync", "everysec", "always"):
            async with store_on(redis_server, durability="everysec"):
                assert "the last second" in caplog.messages[-1]
        with setting(redis_server, "appendonly", "no", "yes"):
            async with store_on(redis_server, durability="none"):
                assert "if Redis ends, all jobs may be lost" in caplog.messages[-1]
    assert len(caplog.messages) == 2


async def test_a_server_that_may_delete_jobs_is_refused(redis_server: RedisServer) -> None:
    with setting(redis_server, "maxmemory-policy", "allkeys-lru", "noeviction"):
        await refused(store_on(redis_server), "maxmemory-policy is allkeys-lru.*CONFIG SET maxmemory-policy noeviction")


async def test_a_replica_is_refused(redis_server: RedisServer) -> None:
    redis_server.call("REPLICAOF", "127.0.0.1", "1")
    try:
        await refused(store_on(redis_server), "replica, which takes no writes; name the primary")
    finally:
        redis_server.call("REPLICAOF", "NO", "ONE")


async def test_data_of_another_schema_are_refused(redis_server: RedisServer) -> None:
    redis_server.call("HSET", "{nodekit}:about", "schema", "99")
    await refused(store_on(redis_server), "have schema 99")


async def test_a_server_that_is_not_there_is_reported_without_the_password(redis_server: RedisServer) -> None:
    url = "redis://user:hunter2@127.0.0.1:1/0"
    store = store_on(redis_server, url=secret(url))
    with pytest.raises(StoreFailed, match="cannot reach Redis") as raised:
        async with store:
            pass
    assert "hunter2" not in str(raised.value)


async def test_a_server_that_does_not_tell_its_settings_is_taken_with_a_warning(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.call("ACL", "SETUSER", "node", "on", ">pass", "~{nodekit}:*", "&{nodekit}:*", "+@all", "-config")
    try:
        url = redis_server.url.replace("redis://", "redis://node:pass@")
        with caplog.at_level(logging.WARNING, "nodekit.store"):
            async with store_on(redis_server, url=secret(url)) as store:
                await store.add([job := make_job()])
                [claim] = await store.claim(["echo"], SEQUENCE, 1)
                await store.save(claim, succeeded(job))
        assert [text for text in caplog.messages if "does not tell" in text] == caplog.messages != []
    finally:
        redis_server.call("ACL", "DELUSER", "node")


async def test_a_wrong_password_is_told_in_words(redis_server: RedisServer) -> None:
    url = redis_server.url.replace("redis://", "redis://node:wrong@")
    await refused(store_on(redis_server, url=secret(url)), "does not accept the user or password")


# -- while nodes run ----------------------------------------------------------------------------------


async def test_a_policy_that_changes_under_a_running_node_is_a_reason_in_health(redis_server: RedisServer) -> None:
    store = store_on(redis_server, lease_seconds=1.0)
    async with make_node(store=store) as node:
        assert (await node.health()).reasons == ()
        with setting(redis_server, "maxmemory-policy", "allkeys-lru", "noeviction"):
            await comes(lambda: bool(store.nodekit_problems()))
            assert any("noeviction" in reason for reason in (await node.health()).reasons)
        await comes(lambda: not store.nodekit_problems())
        assert (await node.health()).reasons == ()


async def test_data_that_were_deleted_are_a_reason_in_health_and_new_jobs_run(redis_server: RedisServer) -> None:
    store = store_on(redis_server, lease_seconds=1.0)
    async with make_node(store=store) as node:
        before = await node.submit(make_request("echo"))
        await node.wait([before.id])
        redis_server.call("FLUSHALL")
        await comes(lambda: bool(store.nodekit_problems()))
        assert "were deleted while nodes worked" in " ".join((await node.health()).reasons)
        assert await node.fetch([before.id]) == []
        after = await node.submit(make_request("echo"))
        with anyio.fail_after(SECONDS):
            [done] = await node.wait([after.id])
        assert done.status is JobStatus.SUCCESS


async def test_a_claim_on_deleted_data_is_lost(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        await store.add([job := make_job()])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        redis_server.call("FLUSHALL")
        with pytest.raises(ClaimLost):
            await store.save(claim, with_output(job))
        assert redis_server.call("EXISTS", f"{{nodekit}}:job:{job.id}") == b":0\r\n", "nothing is left of the write"
        await comes(lambda: claim.scope.cancel_called)


async def test_a_full_memory_refuses_new_jobs_and_lets_others_end(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        await store.add(jobs := [make_job(), make_job("reverse"), make_job("reverse")])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        await store.settle(jobs[2].id, CANCELLED, client=None)
        with setting(redis_server, "maxmemory", "1", "0"):
            with pytest.raises(StoreFailed, match=r"maxmemory; raise it"):
                await store.add([make_job()])
            with pytest.raises(StoreFailed, match=r"maxmemory; raise it"):
                await store.storage("suite").put("key", b"value")
            [other] = await store.claim(["reverse"], SEQUENCE, 1)
            await store.save(other, other.job.finished(CANCELLED, other.job.accepted_at))
            assert await store.delete([jobs[2].id]) == 1
            await anyio.sleep(1.5 * store.lease_seconds)  # the lease is renewed
        await store.save(claim, succeeded(claim.job))
        assert await store.find(JobQuery()) == [jobs[0].id, jobs[1].id]
        assert (await store.pending()).total == 0


async def test_a_node_says_over_http_that_the_memory_is_full_and_recovers_when_there_is_room(
    redis_server: RedisServer,
) -> None:
    called, opened = anyio.Event(), anyio.Event()

    async def gate(data: Any) -> Any:
        called.set()
        await opened.wait()
        return data

    transport = AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0", stop_seconds=0))
    runner = make_function_runner(functions={"gate": gate})
    node = make_node(store=store_on(redis_server), runners=[runner], transports=[transport])
    async with node, aiohttp.ClientSession() as http:

        async def ask(path: str, **options: Any) -> tuple[int, str]:
            async with http.request("POST" if options else "GET", node.urls[0] + path, **options) as response:
                return response.status, await response.text()

        async def submit(container: str = "echo") -> tuple[int, str]:
            return await ask("/api/jobs", json={"containers": [container], "data": {}})

        id = json.loads((await submit("gate"))[1])["id"]
        with anyio.fail_after(SECONDS):
            await called.wait()
        with setting(redis_server, "maxmemory", "1", "0"):
            status, text = await submit()
            assert status == 503, text
            opened.set()
            with anyio.fail_after(SECONDS):
                while "cannot keep results" not in (answer := await ask("/health"))[1]:
                    await anyio.sleep(0.02)
            assert answer[0] == 503
            assert re.search("cannot keep jobs: .*maxmemory; raise it", answer[1])
            assert (await ask(f"/api/jobs?id={id}"))[0] == 200
        with anyio.fail_after(SECONDS):
            [done] = await node.wait([id])
        assert done.status is JobStatus.SUCCESS
        assert (await submit())[0] == 200
        status, text = await ask("/health")
        assert (status, "maxmemory" in text) == (200, False)


async def test_a_server_that_is_busy_with_a_script_is_told_and_survived(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        with setting(redis_server, "busy-reply-threshold", "10", "5000"):
            endless = partial(redis_server.call, "EVAL", "while true do end", "0")
            busy = threading.Thread(target=endless, daemon=True)
            busy.start()
            texts: list[str] = []
            with anyio.fail_after(SECONDS):
                while not any("long script" in text for text in texts):
                    try:
                        await store.add([make_job("nowhere")])
                    except StoreFailed as error:
                        texts.append(str(error))
            assert redis_server.call("SCRIPT", "KILL") == b"+OK\r\n"
            busy.join(SECONDS)
        job = make_job()
        assert await store.add([job]) == [job]


async def test_scripts_that_the_server_forgot_are_loaded_again(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        for _ in range(3):
            redis_server.call("SCRIPT", "FLUSH")
            job = make_job("echo", "reverse")
            assert await store.add([job]) == [job]
            redis_server.call("SCRIPT", "FLUSH")
            [claim] = await store.claim(["echo"], SEQUENCE, 1)
            redis_server.call("SCRIPT", "FLUSH")
            await store.save(claim, with_output(job, {"a": 1}, due="reverse"))
            await store.save(claim, succeeded(claim.job))
            assert await store.get([job.id]) == [claim.job]


async def test_a_server_that_loads_its_data_is_told_and_survived() -> None:
    slowly = "key-load-delay 20000", "loading-process-events-interval-bytes 1024"
    with RedisServer(*slowly) as server:
        async with store_on(server, connect_seconds=30.0) as store:
            await store.add(jobs := [make_job("nowhere", data="x" * 2000) for _ in range(100)])
            assert b"+Background" in server.call("BGREWRITEAOF")
            await comes(lambda: b"aof_rewrite_in_progress:0" in server.call("INFO", "persistence"))
            server.kill()
            texts: list[str] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, server.start)
                with anyio.fail_after(SECONDS):
                    while not any("loading its data" in text for text in texts):
                        try:
                            await store.get([jobs[0].id])
                        except StoreFailed as error:
                            texts.append(str(error))
                        await anyio.sleep(0.02)
            assert await store.get([job.id for job in jobs]) == jobs


async def test_a_cluster_is_worked_on_at_the_server_that_has_the_slot_and_others_say_so() -> None:
    ports = [RedisServer().free_port() for _ in range(2)]  # with others, members speak at the port of clients + 10,000
    one, other = (RedisServer("cluster-enabled yes", f"cluster-port {port}") for port in ports)
    with one, other:
        await refused(store_on(one), "name the server that has the slot .*not served")
        assert one.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        assert one.call("CLUSTER", "MEET", "127.0.0.1", str(other.port), str(ports[1])) == b"+OK\r\n"
        await comes(lambda: all(b"cluster_state:ok" in server.call("CLUSTER", "INFO") for server in (one, other)))
        await refused(store_on(other), "name the server that has the slot of the prefix in url")
        async with store_on(one) as store:
            await store.add([job := make_job()])
            [claim] = await store.claim(["echo"], SEQUENCE, 1)
            await store.save(claim, succeeded(job))


async def test_a_server_that_becomes_a_replica_is_left_in_words(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        redis_server.call("REPLICAOF", "127.0.0.1", "1")
        try:
            with anyio.fail_after(SECONDS), pytest.raises(StoreFailed, match="replica"):
                await store.add([make_job()])
        finally:
            redis_server.call("REPLICAOF", "NO", "ONE")
        with anyio.fail_after(SECONDS):
            job = make_job()
        assert await added(store, job) == [job]


async def added(store: RedisStore, job: Job) -> list[Job]:
    while True:
        try:
            return await store.add([job])
        except StoreFailed:
            await anyio.sleep(0.02)
