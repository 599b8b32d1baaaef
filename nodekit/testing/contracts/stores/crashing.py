"""Crashes of a durable store: processes that are killed at any moment, and full disks."""

import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from random import Random, SystemRandom
from typing import Any

import anyio
import msgspec
import pytest

from nodekit import JobStore
from nodekit.testing.builders.jobs import make_job
from nodekit.testing.contracts.stores.filling import full_disk, is_refused, is_there, too_much
from nodekit.testing.contracts.stores.killing import Tell, told_until_killed
from nodekit.testing.contracts.stores.lives import Found, Life, Memory, look
from nodekit.testing.contracts.stores.store import JobStoreContract
from nodekit.testing.leaks.descriptors import descriptors

KILL_SEED = "NODEKIT_KILL_SEED"
"""Environment variable that takes precedence over `kill_seed`."""


class CrashingContract(JobStoreContract):
    """Tests of `DurableJobStoreContract` about killed processes and full disks."""

    kill_seconds: float = 60.0
    """Time limit for about fifty calls of a process that will be killed; stops a process that hangs."""
    kills: int = 6
    """Number of kills of a process that works on the same data, on each event loop. More kills find rarer errors."""
    kill_jobs: int = 500
    """Number of jobs that the store holds then. More jobs slow down a store that rewrites all of them at each
    change."""
    kill_seed: int | None = 1
    """Seed of the random moments, which differ between event loops. None: a new seed for each run. The environment
    variable ``NODEKIT_KILL_SEED`` takes precedence."""

    @pytest.fixture
    def open_store(self) -> Callable[[], JobStore]:
        raise NotImplementedError("define a fixture `open_store`: a function that gives a store on the same data")

    @pytest.fixture
    async def store(self, open_store: Callable[[], JobStore]) -> AsyncIterator[JobStore]:
        async with open_store() as store:
            yield store

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    def test_what_was_told_survives_kills_at_any_moment(
        self,
        open_store: Callable[[], JobStore],
        anyio_backend_name: str,
        anyio_backend_options: dict[str, Any],
    ) -> None:
        """Processes use the store, leave it, open it again and are killed, one after the other. Nothing that a call has
        reported is lost, nothing is kept in part, and deleted jobs stay deleted."""
        run = partial(anyio.run, backend=anyio_backend_name, backend_options=anyio_backend_options)
        chosen = os.environ.get(KILL_SEED) or self.kill_seed
        seed = SystemRandom().getrandbits(32) if chosen is None else int(chosen)
        chance, memory = Random(f"{seed} {anyio_backend_name}"), Memory()

        def begin(tell: Tell) -> None:
            run(Life(open_store, tell, chance).begin, self.kill_jobs)

        for line in told_until_killed(begin, lines=2, seconds=self.kill_seconds):
            memory.hear(line)
        for kill in range(1, self.kills + 1):
            try:
                self._die_and_look(open_store, run, Random(chance.random()), memory, idle=kill % 2 == 1)
            except AssertionError as error:
                raise AssertionError(
                    f"after kill {kill} of {self.kills} ({KILL_SEED}={seed} makes the same choices): {error}"
                ) from error

    def _die_and_look(
        self,
        open_store: Callable[[], JobStore],
        run: Callable[..., Any],
        chance: Random,
        memory: Memory,
        *,
        idle: bool,
    ) -> None:
        """Kill a process, look at the store in a second process, kill that one as well, and compare.

        The first process is killed in the middle of its work. With `idle`, it does nothing more before the kill, so
        that no later call repairs what an earlier call has left undone.
        """

        def live(tell: Tell) -> None:
            run(Life(open_store, tell, chance, stops_after=moment if idle else None).live)

        def look_again(tell: Tell) -> None:
            run(self._look, open_store, tell, memory, leaves)

        leaves = chance.random() < 0.5
        moment = chance.randrange(1, 80)
        later = 0.0 if idle else 0.05 * chance.random() ** 2
        for line in told_until_killed(live, lines=moment, seconds=self.kill_seconds, later_seconds=later):
            memory.hear(line)
        found = msgspec.json.decode(told_until_killed(look_again, lines=1, seconds=self.kill_seconds)[0], type=Found)
        if misses := list(memory.misses(found)):
            raise AssertionError(f"of {len(memory.ids)} jobs {len(misses)} are wrong: {'; '.join(misses[:3])}")

    async def _look(self, open_store: Callable[[], JobStore], tell: Tell, memory: Memory, leaves: bool) -> None:
        async with open_store() as store:
            found = await look(store, memory.ids)
            if not leaves:
                tell(msgspec.json.encode(found))
                await anyio.sleep(self.kill_seconds)
        tell(msgspec.json.encode(found))
        await anyio.sleep(self.kill_seconds)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    def test_what_does_not_fit_on_the_disk_is_refused_as_a_whole(
        self,
        open_store: Callable[[], JobStore],
        anyio_backend_name: str,
        anyio_backend_options: dict[str, Any],
    ) -> None:
        """Run in another process whose files can no longer grow. `add` raises `StoreFailed` and leaves nothing behind.
        The store works again as soon as there is room."""
        run = partial(anyio.run, backend=anyio_backend_name, backend_options=anyio_backend_options)

        def live(tell: Tell) -> None:
            run(self._fill, open_store, tell)

        if told_until_killed(live, lines=1, seconds=self.kill_seconds)[0] != _REFUSED:
            pytest.skip("all was kept though no file could grow: this store writes no files, or has room in them")

    async def _fill(self, open_store: Callable[[], JobStore], tell: Tell) -> None:
        """Fill the disk. Kept jobs are due in another container than refused ones, so a claim would show a refused
        job."""
        kept, refused = [make_job("reverse")], too_much()
        before = descriptors()
        async with open_store() as store:
            await store.add(kept)
            with full_disk(descriptors() - before):
                if not await is_refused(store, refused):
                    tell(_KEPT)
                    await anyio.sleep(self.kill_seconds)
                await is_there(store, kept, refused)
                assert await self.nothing_to_claim(store), "`claim` gives a job that was refused"
            kept.append(make_job("reverse"))
            await store.add(kept[1:])
            await is_there(store, kept, refused)
        async with open_store() as store:
            await is_there(store, kept, refused)
            assert await self.nothing_to_claim(store), "`claim` gives a job that was refused"
            assert await store.add(refused) == refused
        tell(_REFUSED)
        await anyio.sleep(self.kill_seconds)


_KEPT, _REFUSED = b"kept", b"refused"
