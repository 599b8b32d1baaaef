"""Records of plugins: declared, checked when a node is composed, and kept by its store."""

from pathlib import Path

import pytest
from components import functions, make_node

from nodekit import CompositionError, EmbeddedStore, NodekitError
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio


class Visits:
    """Counts how often its node was started."""

    def __init__(self, namespace: str = "visits") -> None:
        self.storage_namespace = namespace
        self.seen = 0

    async def nodekit_run(self, node) -> None:
        records = node.storage(self.storage_namespace)
        before = await records.get("starts")
        self.seen = int(before.value) + 1 if before else 1
        await records.put("starts", str(self.seen).encode(), expect=before.version if before else 0)


async def test_a_plugin_finds_its_records_again(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        plugin = Visits()
        async with make_node(functions(), store=SqliteStore(tmp_path / "jobs.db"), plugins=[plugin]) as node:
            while not (record := await node.storage("visits").get("starts")) or int(record.value) < number:
                pass
        assert plugin.seen == number


def test_a_node_with_a_store_that_keeps_no_records_is_not_composed() -> None:
    store = EmbeddedStore(MemoryTable())
    with pytest.raises(CompositionError, match=r"plugins\[0\]: Visits keeps records in the store: .* keeps no"):
        make_node(functions(), store=store, plugins=[Visits()])
    node = make_node(functions(), store=store)
    with pytest.raises(NodekitError, match="keeps no records"):
        node.storage("visits")


def test_two_plugins_share_no_namespace() -> None:
    with pytest.raises(CompositionError, match=r"plugins\[1\]: Visits .* 'visits', which belongs to plugins\[0\]"):
        make_node(functions(), plugins=[Visits(), Visits()])
    make_node(functions(), plugins=[Visits(), Visits("others")])


@pytest.mark.parametrize("name", ["", "A", "a b", "é", "a" * 65, 7])
def test_a_namespace_is_a_name(name: str) -> None:
    with pytest.raises(CompositionError, match=r"plugins\[0\]: .* is not valid"):
        make_node(functions(), plugins=[Visits(name)])
