"""Claims with room for only some jobs of each group, so that no group holds all slots of a node."""

from collections.abc import Sequence

import anyio

from nodekit import Claim, ClaimRoom, GroupId, JobStore
from nodekit.testing.builders.jobs import SEQUENCE, make_job
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.stores.base import StoreBase


class ClaimRooms(StoreBase):
    """Tests of `JobStoreContract` about `room` of `claim`."""

    async def test_a_claim_gives_no_group_more_than_its_room(self, store: JobStore) -> None:
        for client in ("alice", "bob", "carol"):
            await store.add([make_job(client=client) for _ in range(6)])
        claims = await self._claims(store, ClaimRoom(2, {"alice": 0, "bob": 4}), 6)
        assert _groups(claims) == ["bob"] * 4 + ["carol"] * 2

    async def test_a_group_without_room_waits_and_others_do_not(self, store: JobStore) -> None:
        await store.add([make_job(client="alice") for _ in range(3)])
        claims: list[Claim] = []
        with anyio.move_on_after(self.quiet_seconds):
            claims = await store.claim(["echo"], SEQUENCE, 5, room=ClaimRoom(5, {"alice": 0}))
        assert claims == []
        await store.add([make_job(client="bob")])
        assert _groups(await self._claims(store, ClaimRoom(5, {"alice": 0}), 1)) == ["bob"]
        assert _groups(await self._claims(store, None, 3)) == ["alice"] * 3

    async def test_room_is_for_a_group_in_all_containers_and_priorities(self, store: JobStore) -> None:
        jobs = [make_job("echo", client="alice"), make_job("reverse", client="alice", priority=0)]
        await store.add([*jobs, make_job("reverse", client="bob", priority=7)])
        claims = await self._claims(store, ClaimRoom(1), 2, "echo", "reverse")
        assert _groups(claims) == ["alice", "bob"]
        assert claims[0].job.id in (job.id for job in jobs)

    async def _claims(self, store: JobStore, room: ClaimRoom | None, count: int, *containers: str) -> list[Claim]:
        """Claim until there are `count` claims; what was claimed takes room."""
        claims: list[Claim] = []
        with within(self.timeout_seconds, f"`claim` gives {count} jobs for which there is room"):
            while len(claims) < count:
                held = _groups(claims)
                left = room and ClaimRoom(
                    room.each, {group: max(0, room.of(group) - held.count(group)) for group in {*held, *room.groups}}
                )
                claims += await store.claim(containers or ["echo"], SEQUENCE, 9, room=left)
        assert len(claims) == count
        return claims


def _groups(claims: Sequence[Claim]) -> list[GroupId]:
    return sorted(claim.job.group for claim in claims)
