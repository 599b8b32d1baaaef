"""Announcements: nodes on a shared store tell each other which containers they have, by `announce` and `nodes`."""

from collections.abc import Mapping

import anyio

from nodekit import Announcement, Container, SharedStore
from nodekit.testing.contracts.shared.fencing import FencingContract
from nodekit.testing.contracts.shared.leasing import Open


class _Secretive(Container, frozen=True, kw_only=True):
    """A runner's container with a private field."""

    secret: str


class AnnouncingContract(FencingContract):
    """Tests of `SharedStoreContract` about what nodes announce."""

    def offered(self, *containers: str, running: tuple[str, ...] = ()) -> Announcement:
        """Make a node's announcement of these containers."""
        rules = {"external": False, "allowed_ips": ["10.0.0.0/8"]}
        offered = {id: Container(id=id, image=f"{id}:1", concurrency=2, rules=rules) for id in containers}
        return Announcement(offered, frozenset(running))

    async def known(self, store: SharedStore) -> Mapping[str, tuple[Mapping[str, Container], frozenset[str]]]:
        """Return the announcements that a store knows, by node."""
        nodes = await store.nodes()
        return {name: (dict(node.containers), frozenset(node.running)) for name, node in nodes.items()}

    async def knows(self, store: SharedStore, **offered: Announcement) -> None:
        """Wait until a store knows exactly these nodes."""
        expected = {name: (dict(node.containers), frozenset(node.running)) for name, node in offered.items()}
        await self.eventually(lambda: self.known(store), expected)

    async def test_what_a_node_announces_is_known_to_all(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        for store in stores:
            assert await store.nodes() == {}
        a, b = self.offered("echo", "reverse", running=("echo",)), self.offered("echo")
        await one.announce("a", a)
        await other.announce("b", b)
        for store in stores:
            await self.knows(store, a=a, b=b)

    async def test_what_a_node_announces_anew_replaces_what_it_had_announced(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.announce("a", self.offered("echo", "reverse", running=("echo",)))
        await other.announce("b", b := self.offered("echo"))
        await one.announce("a", a := self.offered("other", running=("other",)))
        for store in stores:
            await self.knows(store, a=a, b=b)
        await third.announce("b", b := self.offered())
        await self.knows(one, a=a, b=b)

    async def test_of_a_container_its_own_fields_travel_and_no_secrets(self, stores: list[SharedStore]) -> None:
        container = _Secretive(id="echo", description="says it again", secret="s3cret")  # noqa: S106
        await stores[0].announce("a", Announcement({"echo": container}, ["echo"]))
        plain = Announcement({"echo": Container(id="echo", description="says it again")}, ["echo"])
        for store in stores:
            await self.knows(store, a=plain)

    async def test_an_announcement_stays_as_long_as_its_node_lives(self, stores: list[SharedStore]) -> None:
        await stores[0].announce("a", a := self.offered("echo"))
        await self.knows(stores[1], a=a)
        await anyio.sleep(3 * self.lease_seconds)
        for store in stores:
            assert await self.known(store) == {"a": (a.containers, frozenset())}

    async def test_an_announcement_is_gone_when_its_node_has_left(self, open_store: Open, store: SharedStore) -> None:
        await store.announce("a", a := self.offered("echo"))
        async with open_store() as leaving:
            await leaving.announce("b", b := self.offered("reverse"))
            await self.knows(store, a=a, b=b)
        await self.knows(store, a=a)

    async def test_an_announcement_lapses_when_its_node_dies(self, open_store: Open, store: SharedStore) -> None:
        await store.announce("a", a := self.offered("echo"))
        async with self.another(open_store) as there:
            await there.call(there.store.announce, "b", b := self.offered("reverse"))
            await self.knows(store, a=a, b=b)
            await there.stand_still()
            await self.knows(store, a=a)

    async def test_a_node_that_comes_again_under_its_name_stays_known(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            await there.call(there.store.announce, "a", self.offered("echo"))
            await there.stand_still()
            await store.announce("a", again := self.offered("reverse"))
            await self.knows(store, a=again)
            await anyio.sleep(2 * self.lease_seconds)
            await self.knows(store, a=again)
        await self.knows(store, a=again)
