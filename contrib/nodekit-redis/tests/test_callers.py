"""Callers that are cancelled, names that are hostile, and what a job costs."""

import asyncio
import re
import time
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from redis_server import RedisServer
from stores import secret, store_on

from nodekit import CompositionError, JobFields, JobQuery, JobStatus, Outcome, StoreFailed
from nodekit.testing import SEQUENCE, make_job, succeeded, with_output
from nodekit_redis import RedisConfig, RedisStore

pytestmark = pytest.mark.anyio
ODD_NAMES = ("a:b", "a", "a:b:c", "a b", "{x}", "*", "a%3Ab", "é", "\x00", "two\nlines", "-", "0:0:a", "")


async def test_an_answer_that_came_long_ago_continues_no_job(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_on(redis_server, lease_seconds=1.0) as store:
        await store.add([make_job("echo", "reverse")])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        run = store._engine.run

        async def stood_still(*arguments: Any, **options: Any) -> Any:
            answer = await run(*arguments, **options)
            time.sleep(1.5)
            return answer

        monkeypatch.setattr(store._engine, "run", stood_still)
        await store.save(claim, with_output(claim.job))
        assert claim.scope.cancel_called


async def test_a_caller_that_is_cancelled_never_leaves_a_reply_to_another(redis_server: RedisServer) -> None:
    """Each key holds its own name. A connection that is out of step would answer with another one."""
    choices = Random(7)
    async with store_on(redis_server, connections=1) as store:
        records = store.storage("suite")
        keys = [f"key {number}" for number in range(20)]
        for key in keys:
            await records.put(key, key.encode())

        async def read(key: str) -> None:
            record = await records.get(key)
            assert record is not None
            assert record.value == key.encode()

        for _ in range(40):
            calls = [asyncio.ensure_future(read(key)) for key in keys]
            for _ in range(choices.randrange(4)):
                await asyncio.sleep(0)
            for call in choices.sample(calls, 10):
                call.cancel()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(end) for end in ends} <= {type(None), asyncio.CancelledError}
        for key in keys:
            await read(key)


async def test_a_claim_whose_caller_is_cancelled_by_asyncio_is_given_again(redis_server: RedisServer) -> None:
    choices = Random(7)
    async with store_on(redis_server, lease_seconds=60.0, look_seconds=60.0) as store:
        await store.add(jobs := [make_job() for _ in range(3)])
        for _ in range(60):
            call = asyncio.ensure_future(store.claim(["echo"], SEQUENCE, 3))
            for _ in range(choices.randrange(12)):
                await asyncio.sleep(0)
            call.cancel()
            [end] = await asyncio.gather(call, return_exceptions=True)
            for claim in end if isinstance(end, list) else ():
                await store.release(claim, claim.job)
        found = set[str]()
        with anyio.fail_after(30):
            while len(found) < len(jobs):
                found |= {claim.job.id for claim in await store.claim(["echo"], SEQUENCE, 3)}


async def test_others_learn_of_a_job_whose_own_node_got_no_answer(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"lease_seconds": 60.0, "look_seconds": 600.0}
    async with store_on(redis_server, **settings) as one, store_on(redis_server, **settings) as other:
        run = one._engine.run

        async def lost(*arguments: Any, **options: Any) -> Any:
            await run(*arguments, **options)
            raise StoreFailed("the connection is lost")

        for turns in (None, *range(12)):
            own = asyncio.ensure_future(one.claim(["echo"], ["another pipeline"], 1))  # it would look first
            claim = asyncio.ensure_future(other.claim(["echo"], SEQUENCE, 1))
            await anyio.sleep(0.05)
            call = asyncio.ensure_future(one.add([job := make_job()]))
            if turns is None:
                monkeypatch.setattr(one._engine, "run", lost)
            else:
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            own.cancel()
            monkeypatch.setattr(one._engine, "run", run)
            if not await one.get([job.id]):  # it was cancelled before it was sent
                claim.cancel()
            with anyio.fail_after(30):
                [end, _] = await asyncio.gather(claim, own, return_exceptions=True)
            for claimed in end if isinstance(end, list) else ():
                await other.save(claimed, succeeded(claimed.job))


async def test_names_are_told_apart_whatever_they_are_made_of(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        containers = [make_job(name or "none") for name in ODD_NAMES]
        clients = [make_job("clients", client=name, idempotency_key=key) for name in ODD_NAMES for key in ("k", "a:b")]
        groups = [make_job("groups", group=name or "none") for name in ODD_NAMES]
        pipelines = [make_job("pipelines", pipeline=name) for name in ODD_NAMES]
        for jobs in (containers, clients, groups, pipelines):
            assert await store.add(jobs) == jobs
            assert await store.get([job.id for job in jobs]) == jobs
        for job in clients:
            key = job.request.idempotency_key
            assert await store.find(JobQuery(client=job.client, idempotency_key=key)) == [job.id]
            again = make_job("clients", client=job.client, idempotency_key=key)
            assert await store.add([again]) == [job]
        names = [job.group for job in groups]
        assert dict((await store.pending(names)).groups).keys() == set(names)
        assert (await store.queues()).keys() == {job.due for job in (*containers, *clients, *groups, *pipelines)}
        for job in containers:
            [claim] = await store.claim([job.due or ""], None, 5)
            assert claim.job == job
        for job in pipelines:
            [claim] = await store.claim(["pipelines"], [job.request.pipeline], 5)
            assert claim.job == job
            await store.save(claim, job.finished(Outcome(JobStatus.SUCCESS), job.accepted_at))


async def test_prefixes_share_nothing(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as one, store_on(redis_server, prefix="nodekit2") as other:
        await one.add([job := make_job()])
        assert await other.get([job.id]) == []
        assert (await other.pending()).total == 0
        with anyio.move_on_after(0.2):
            assert await other.claim(["echo"], SEQUENCE, 1) == []


async def test_all_keys_are_in_one_slot(redis_server: RedisServer) -> None:
    async with store_on(redis_server, prefix="mine") as store:
        await store.add([make_job(idempotency_key="k"), make_job()])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        await store.save(claim, succeeded(claim.job))
        await store.storage("plugin").put("key", b"value")
        keys = redis_server.call("KEYS", "*").decode().split("\r\n")[2::2]
    assert len(keys) > 10
    assert [key for key in keys if key and not key.startswith("{mine}:")] == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:x/0",
        "redis://h:1/0?nonsense=1",
        "redis://h?protocol=3",
        "redis://h?decode_responses=1",
        "http://h",
        "redis://[::1/0",
        "redis://h..x/0",
        "redis://h%00/0",
        "h:6379",
    ],
)
async def test_an_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(CompositionError, match=r"^url: ") as raised:
        RedisStore(RedisConfig(url=secret(url.replace("//h", "//user:hunter2@h"))))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["", "a{b}", "a b", "x" * 49])
async def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(CompositionError, match=r"^prefix: .*expected 1 to 48 letters"):
        RedisStore(RedisConfig(url=secret("redis://h"), prefix=prefix))


async def test_keys_that_somebody_deleted_keep_nobody_from_the_other_jobs(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        await store.add(jobs := [make_job() for _ in range(3)])
        await store.add([timed := replace(make_job("reverse"), queue_timeout_seconds=0.001)])
        for job in (jobs[0], timed):
            redis_server.call("DEL", f"{{nodekit}}:job:{job.id}")
        with anyio.fail_after(30):
            [claim, other] = await store.claim(["echo"], SEQUENCE, 5)
            assert [claim.job, other.job] == jobs[1:]
            await store.add([later := replace(make_job("reverse"), queue_timeout_seconds=0.001)])
            [claim] = await store.claim_expired(5)
        assert claim.job == later


async def test_it_works_over_a_unix_socket(redis_server: RedisServer) -> None:
    url = secret(f"unix://{redis_server.folder}/redis.sock?db=0")
    async with store_on(redis_server, url=url) as store, store_on(redis_server) as other:
        await store.add([job := make_job()])
        assert await other.get([job.id]) == [job]


async def test_nothing_is_left_of_jobs_that_were_deleted(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        jobs = [make_job("echo", "reverse", idempotency_key=f"{number}") for number in range(5)]
        await store.add(jobs)
        await store.add([make_job(id=jobs[0].id), make_job(idempotency_key="1")])  # known ones leave nothing
        for claim in await store.claim(["echo"], SEQUENCE, 5):
            await store.save(claim, with_output(claim.job, {"a": 1}, due="reverse"))
            await store.save(claim, succeeded(claim.job))
        assert await store.delete([job.id for job in jobs]) == 5
    kept = {"about", "last", "turn", "pending", "dues", "seen"}
    keys = {key.removeprefix("{nodekit}:") for key in redis_server.call("KEYS", "*").decode().split("\r\n")[2::2]}
    assert keys - kept - {""} == set()


async def test_a_retry_of_a_deleted_job_is_refused_and_leaves_nothing(redis_server: RedisServer) -> None:
    async with store_on(redis_server) as store:
        await store.add([make_job("echo", "echo", "reverse")])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        for number in range(2):
            await store.save(claim, with_output(claim.job, {"number": number}, due="reverse"))
        await store.save(claim, claim.job.finished(Outcome(JobStatus.FAILED), claim.job.accepted_at))
        [old] = await store.get([claim.job.id], fields=JobFields.RUN)
        await store.delete([old.id])
        retry = make_job("echo", "echo", "reverse").retrying(old, "failed")
        with pytest.raises(StoreFailed, match="deleted"):
            await store.add([make_job(), retry])
        assert await store.find(JobQuery()) == []
        assert redis_server.call("EXISTS", f"{{nodekit}}:job:{retry.id}") == b":0\r\n"


def calls(server: RedisServer) -> dict[str, int]:
    """Return how often each command was called."""
    text = server.call("INFO", "commandstats").decode()
    return {name: int(number) for name, number in re.findall(r"cmdstat_(\S+?):calls=(\d+)", text)}


async def test_what_a_job_of_three_steps_costs(redis_server: RedisServer) -> None:
    """One script for each write, one for the claim, and a bounded number of commands in them."""
    jobs = 50
    async with store_on(redis_server, lease_seconds=600.0, look_seconds=60.0) as store:

        async def run() -> None:
            await store.add([make_job("echo", "echo", "echo")])
            [claim] = await store.claim(["echo"], SEQUENCE, 1)
            for _ in range(2):
                await store.save(claim, with_output(claim.job, {"a": 1}, due="echo"))
            await store.save(claim, succeeded(claim.job))

        await run()  # loads the scripts
        redis_server.call("CONFIG", "RESETSTAT")
        for _ in range(jobs):
            await run()
        counted = calls(redis_server)
    scripts = counted["evalsha"] / jobs
    inner = {name: number for name, number in counted.items() if name not in ("evalsha", "multi", "exec", "info")}
    assert scripts == 5
    assert sum(inner.values()) / jobs <= 95
    assert counted["publish"] / jobs == 4


async def test_a_job_that_comes_alone_to_idle_nodes_costs_one_claim(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodekit.shared.waiting.OWN_SECONDS", 600.0)  # however busy this machine is
    async with AsyncExitStack() as stack:
        settings = {"lease_seconds": 600.0, "look_seconds": 600.0}
        stores = [await stack.enter_async_context(store_on(redis_server, **settings)) for _ in range(3)]
        tasks = await stack.enter_async_context(anyio.create_task_group())

        async def work(store: RedisStore) -> None:
            while True:
                [claim] = await store.claim(["echo"], SEQUENCE, 1)
                await store.save(claim, succeeded(claim.job))

        async def scripts_are(number: int) -> None:
            with anyio.fail_after(30):
                while (counted := calls(redis_server).get("evalsha", 0)) < number:
                    await anyio.sleep(0.01)
            assert counted == number

        await stores[0].add([make_job()])  # loads the scripts
        [claim] = await stores[0].claim(["echo"], SEQUENCE, 1)
        await stores[0].save(claim, succeeded(claim.job))
        redis_server.call("CONFIG", "RESETSTAT")
        for store in stores:
            tasks.start_soon(work, store)
        await scripts_are(len(stores))
        for number in range(9):
            await stores[number % 3].add([make_job()])
            await scripts_are(len(stores) + 4 * (number + 1))  # `add`, `claim`, `write`, and the next claim
        assert calls(redis_server)["publish"] == 2 * 9
        tasks.cancel_scope.cancel()


async def test_a_store_that_was_left_holds_no_lease(redis_server: RedisServer) -> None:
    for _ in range(10):
        async with store_on(redis_server, lease_seconds=1.0):
            await anyio.sleep(0.05)
    assert redis_server.call("EXISTS", "{nodekit}:sessions") == b":0\r\n"
