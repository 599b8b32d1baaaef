"""Announcements of nodes: who lives, who is gone, and what the engine knows of their work."""

from collections.abc import Mapping
from typing import Any

import anyio
from msgspec.structs import replace

from nodekit import AnnouncedContainer, Announcement, SharedStore
from nodekit.testing.builders.jobs import SEQUENCE
from nodekit.testing.contracts.shared.base import Open, SharedBase


def _plain(announced: Announcement) -> Announcement:
    """Return the announcement in one of its forms, so that two can be compared."""
    return replace(
        announced,
        containers=dict(announced.containers),
        running=tuple(sorted(announced.running)),
        pipelines=tuple(sorted(announced.pipelines)),
    )


class Announcements(SharedBase):
    """Tests of `SharedStoreContract` about what nodes learn of each other."""

    def announcement(self, node: str, *ids: str, running: tuple[str, ...] = (), **fields: Any) -> Announcement:
        """Make a node's announcement of these containers. The incarnation has the node's name unless it is given."""
        rules = {"external": False, "allowed_ips": ["10.0.0.0/8"]}
        containers = {id: AnnouncedContainer(id=id, image=f"{id}:1", concurrency=2, rules=rules) for id in ids}
        fields = {"incarnation": node, "pipelines": SEQUENCE, "version": "1.2.3", **fields}
        return Announcement(name=node, containers=containers, running=running, **fields)

    async def known(self, store: SharedStore) -> Mapping[str, Announcement]:
        """Return what the live nodes that a store knows have announced, by incarnation."""
        return {m.announcement.incarnation: _plain(m.announcement) for m in await store.nodes() if m.live}

    async def knows(self, store: SharedStore, *announced: Announcement) -> None:
        """Wait until a store knows exactly these live nodes."""
        expected = {one.incarnation: _plain(one) for one in announced}
        await self.eventually(lambda: self.known(store), expected)

    async def gone(self, store: SharedStore) -> Mapping[str, Announcement]:
        """Return what the nodes that are gone had announced last, by incarnation."""
        return {m.announcement.incarnation: _plain(m.announcement) for m in await store.nodes() if not m.live}

    async def test_what_a_node_announces_is_known_to_all(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        for store in stores:
            assert await store.nodes() == []
        state = {"in_flight": 3, "urls": ("http://a:4000",), "skew_seconds": -0.25, "takeovers": 2, "poison": 1}
        a = self.announcement("a", "echo", "reverse", running=("echo",), **state)
        b = self.announcement("b", "echo", pipelines=("dag", "sequence"))
        await one.announce(a)
        await other.announce(b)
        for store in stores:
            await self.knows(store, a, b)

    async def test_what_a_node_announces_anew_replaces_what_it_had_announced(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.announce(self.announcement("a", "echo", "reverse", running=("echo",)))
        await other.announce(b := self.announcement("b", "echo"))
        await one.announce(a := self.announcement("a", "other", running=("other",)))
        for store in stores:
            await self.knows(store, a, b)
        await other.announce(b := self.announcement("b"))
        await self.knows(third, a, b)

    async def test_an_announcement_stays_as_long_as_its_node_lives(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        await one.announce(a := self.announcement("a", "echo"))
        await self.knows(other, a)
        [before] = await other.nodes()
        await anyio.sleep(3 * self.lease_seconds)
        for store in stores:
            assert await self.known(store) == {"a": _plain(a)}
        [after] = await other.nodes()
        assert after.seen_at > before.seen_at

    async def test_a_node_that_has_left_is_gone_at_once_and_remembered(
        self, open_store: Open, store: SharedStore
    ) -> None:
        await store.announce(a := self.announcement("a", "echo"))
        async with open_store() as leaving:
            await leaving.announce(b := self.announcement("b", "reverse"))
            await self.knows(store, a, b)
        await self.knows(store, a)
        assert await self.gone(store) == {"b": _plain(b)}
        async with open_store() as later:  # for a node that starts only now, too
            assert await self.gone(later) == {"b": _plain(b)}

    async def test_a_node_that_dies_is_gone_after_its_lease_and_remembered(
        self, open_store: Open, store: SharedStore
    ) -> None:
        await store.announce(a := self.announcement("a", "echo"))
        async with self.another(open_store) as there:
            await there.call(there.store.announce, b := self.announcement("b", "reverse"))
            await self.knows(store, a, b)
            await there.stand_still()
            await self.knows(store, a)
            assert await self.gone(store) == {"b": _plain(b)}
            [seen_at] = [member.seen_at for member in await store.nodes() if not member.live]
            assert seen_at <= await store.now() - self.lease_seconds / 2

    async def test_a_node_that_starts_again_is_another_incarnation(self, open_store: Open, store: SharedStore) -> None:
        async with self.another(open_store) as there:
            await there.call(there.store.announce, first := self.announcement("a", "echo", incarnation="first"))
            await there.stand_still()
            await store.announce(second := self.announcement("a", "reverse", incarnation="second"))
            await self.knows(store, second)
            assert await self.gone(store) == {"first": _plain(first)}
            await anyio.sleep(2 * self.lease_seconds)
            await self.knows(store, second)
        await self.knows(store, second)
