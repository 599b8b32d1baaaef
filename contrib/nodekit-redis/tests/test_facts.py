"""The facts about the server, for operators."""

from contextlib import ExitStack

import pytest
from redis_server import HOST, RedisServer, waited
from stores import secret, store_on

from nodekit import StoreFailed
from nodekit.testing import make_job

pytestmark = pytest.mark.anyio


async def test_facts_are_known_of_a_store_that_is_entered_and_of_one_that_is_not(redis_server: RedisServer) -> None:
    store = store_on(redis_server)
    before = await store.facts()
    assert (before["role"], before["schema_version"], before["listeners"]) == ("master", 0, 0)
    assert (before["appendonly"], before["appendfsync"], before["last_append"]) == ("yes", "always", "ok")
    assert str(before["server"]).split()[0] in ("redis", "valkey")
    assert "attention" not in before
    async with store, store_on(redis_server):
        await store.add([make_job() for _ in range(100)])
        found = await store.facts()
    assert (found["schema_version"], found["listeners"]) == (1, 2)
    assert int(found["used_bytes"]) > int(before["used_bytes"])


async def test_what_an_operator_has_to_change_is_named(redis_server: RedisServer) -> None:
    redis_server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        found = await store_on(redis_server).facts()
    finally:
        redis_server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert found["maxmemory_policy"] == "allkeys-lru"
    assert "CONFIG SET maxmemory-policy noeviction" in str(found["attention"])


async def test_keys_that_were_evicted_are_counted() -> None:
    with RedisServer("maxmemory-policy allkeys-random", "maxmemory 3mb") as server:
        assert waited(lambda: server.call("SET", server.call("INCR", "n").decode(), "x" * 60_000) and evicted(server))
        assert int((await store_on(server).facts())["evicted_keys"]) > 0


def evicted(server: RedisServer) -> bool:
    return b"evicted_keys:0\r" not in server.call("INFO", "stats")


async def test_replicas_are_counted_with_how_far_they_are_behind() -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(RedisServer())
        replica = stack.enter_context(RedisServer(f"replicaof {HOST} {primary.port}"))
        assert waited(lambda: b"master_link_status:up" in replica.call("INFO", "replication"))
        assert waited(lambda: b"state=online" in primary.call("INFO", "replication"))
        store = store_on(primary)
        found = await store.facts()
        assert (found["replicas"], found["replicas_online"]) == (1, 1)
        replica.freeze()
        try:
            async with store:
                await store.add([make_job() for _ in range(50)])
                assert int((await store.facts())["replication_lag_bytes"]) > 10_000
        finally:
            replica.thaw()


async def test_a_server_that_forbids_its_settings_tells_the_rest(redis_server: RedisServer) -> None:
    redis_server.call("ACL", "SETUSER", "node", "on", ">pass", "~{nodekit}:*", "&{nodekit}:*", "+@all", "-config")
    try:
        url = redis_server.url.replace("redis://", "redis://node:pass@")
        found = await store_on(redis_server, url=secret(url)).facts()
    finally:
        redis_server.call("ACL", "DELUSER", "node")
    assert "appendfsync" not in found
    assert (found["appendonly"], found["listeners"]) == ("yes", 0)


async def test_a_server_that_is_not_there_is_a_failure_in_words(redis_server: RedisServer) -> None:
    with pytest.raises(StoreFailed, match="cannot reach Redis"):
        await store_on(redis_server, url=secret(f"redis://{HOST}:1/0")).facts()
