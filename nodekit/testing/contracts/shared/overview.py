"""Facts that the engine has for all nodes: its clock, the queues, who holds a job, the turns of many clients."""

from collections import Counter

import anyio

from nodekit import Announcement, JobId, QueueState, SharedStore
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.shared.base import Open, SharedBase
from nodekit.testing.contracts.shared.clocks import thread_id, wrong_clock

CLIENTS = 10_000
AT_ONCE = 100
MOST_TURNS = 3
"""Number of turns that a client may have before every other one has had its first."""


class Overview(SharedBase):
    """Tests of `SharedStoreContract` about what is asked of the engine beside single jobs."""

    async def test_ten_thousand_clients_take_turns(self, stores: list[SharedStore]) -> None:
        clients = [f"client {n:05}" for n in range(CLIENTS)]
        busy = [make_job(client="busy") for _ in range(200)]
        await stores[0].add(busy)
        for first in range(0, CLIENTS, AT_ONCE):
            some = clients[first : first + AT_ONCE]
            await stores[first // AT_ONCE % 3].add([make_job(client=client) for client in some])
            await turn()  # or a session might lapse meanwhile
        pending = await stores[1].pending(["busy", clients[-1], "nobody"])
        assert (pending.total, dict(pending.groups)) == (CLIENTS + 200, {"busy": 200, clients[-1]: 1})
        clients_of: dict[JobId, str] = {}  # a job that is given again, since a session lapsed, counts once
        with within(self.timeout_seconds, f"the stores give {CLIENTS} jobs by `claim`"):
            while left := CLIENTS - len(clients_of):
                await turn()
                claims = await stores[left % 3].claim(["echo"], SEQUENCE, min(left, AT_ONCE))
                clients_of.update((claim.job.id, claim.job.client) for claim in claims)
        served = Counter(clients_of.values())
        assert served["busy"] <= MOST_TURNS, "one client was served often before others were served at all"
        assert len(served) >= CLIENTS - MOST_TURNS

    async def test_queues_says_how_many_jobs_wait_for_each_container_and_how_long(
        self, stores: list[SharedStore]
    ) -> None:
        one, other, third = stores
        assert dict(await third.queues()) == {}
        await one.add([make_job(), make_job(), make_job("reverse")])
        await anyio.sleep(2 * self.quiet_seconds)
        await other.add([make_job()])
        claim = await self.claimed(one, make_job("slow"), containers=["slow"])
        await one.release(claim, claim.job, delay_seconds=60)
        queues = await third.queues()
        assert {id: state.jobs for id, state in queues.items() if state.jobs} == {"echo": 3, "reverse": 1, "slow": 1}
        assert all(queues[id].oldest_seconds >= 1.5 * self.quiet_seconds for id in ("echo", "reverse"))
        assert queues["slow"].oldest_seconds == 0
        await self.claims(other, 3)
        assert (await third.queues()).get("echo", QueueState(0)).jobs == 0

    async def test_held_names_the_node_that_has_a_claim(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.announce(Announcement(name="a", incarnation="1"))
        await other.announce(Announcement(name="b", incarnation="2"))
        before = await third.now()
        first, second = await self.claimed(one), await self.claimed(other)
        ids = [first.job.id, second.job.id, make_job().id]
        held = await third.held(ids)
        assert {id: (call.node, call.step, call.attempt) for id, call in held.items()} == {
            ids[0]: ("a", 0, 1),
            ids[1]: ("b", 0, 1),
        }
        after = await third.now()
        assert all(before <= call.since <= after for call in held.values())
        await one.save(first, with_output(first.job, due="reverse"))
        later = (await third.held(ids[:1]))[ids[0]]
        assert (later.step, later.since >= held[ids[0]].since) == (1, True)
        await one.release(first, first.job)
        await other.save(second, succeeded(second.job))
        assert dict(await third.held(ids)) == {}

    async def test_the_engine_has_one_clock(self, open_store: Open, store: SharedStore) -> None:
        with wrong_clock(86_400.0) as threads:
            async with self.another(open_store) as there:
                threads.add(await there.call(thread_id))
                for _ in range(3):
                    here, away, again = await store.now(), await there.call(there.store.now), await store.now()
                    assert here <= away <= again
