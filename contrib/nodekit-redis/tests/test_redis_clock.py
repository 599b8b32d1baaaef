"""The clock of the server leaps while nodes work: leases hold, and those of dead nodes end."""

from pathlib import Path

import anyio
import pytest
from leaping_clock import LeapingClock
from redis_server import RedisServer
from stores import secret, store_on

from nodekit import JobQuery
from nodekit.testing import SEQUENCE, TcpProxy, make_job, succeeded

pytestmark = pytest.mark.anyio
SECONDS = 60.0
HOUR = 3600


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_a_leap_of_the_clock_ends_no_lease_of_a_live_node_and_keeps_none_of_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, seconds: int
) -> None:
    clock = LeapingClock(tmp_path, monkeypatch)
    with RedisServer() as server, TcpProxy(*server.address) as proxy:
        url = secret(server.url_at(*proxy.address))
        async with store_on(server) as store, store_on(server, url=url, call_seconds=1.0) as dead:
            await store.add([first := make_job(), *(others := [make_job() for _ in range(2)])])
            [ended] = await store.claim(["echo"], SEQUENCE, 1)
            await store.save(ended, succeeded(first))
            [kept] = await store.claim(["echo"], SEQUENCE, 1)
            [taken] = await dead.claim(["echo"], SEQUENCE, 1)
            before = await store.now()
            proxy.hang()
            clock.leap(seconds)
            assert abs(await store.now() - before - seconds) < HOUR / 2
            with anyio.fail_after(SECONDS):
                [again] = await store.claim(["echo"], SEQUENCE, 1)
            assert (again.job.id, again.takeovers) == (taken.job.id, 1)
            assert not kept.scope.cancel_called
            for claim in (kept, again):
                await store.save(claim, succeeded(claim.job))
            assert await store.find(JobQuery(order="finished")) == [first.id, *(job.id for job in others)]
            proxy.heal()
