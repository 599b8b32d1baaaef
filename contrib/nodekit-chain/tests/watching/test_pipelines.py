"""The pipelines of a node, by hash."""

from nodekit_chain.protocol.subscription import containers_hash
from nodekit_chain.watching.pipelines import MOST_PIPELINES, PipelineTable


def test_short_sequences_of_few_containers_are_known() -> None:
    table = PipelineTable()
    assert table.update(["a", "b", "c", "d"])
    for pipeline in (("a",), ("b", "a"), ("c", "a", "d")):
        assert table.containers(containers_hash(pipeline)) == pipeline
    assert table.containers(containers_hash(["a", "b", "c", "d"])) is None
    assert table.containers(containers_hash(["a", "a"])) is None


def test_a_declared_pipeline_is_known_while_the_node_has_its_containers() -> None:
    table = PipelineTable([["a", "b", "a", "b"]])
    table.update(["a"])
    assert table.containers(containers_hash(["a", "b", "a", "b"])) is None
    table.update(["b", "a"])
    assert table.containers(containers_hash(["a", "b", "a", "b"])) == ("a", "b", "a", "b")


def test_five_hundred_containers_make_a_small_table() -> None:
    table = PipelineTable([["c7", "c8"]])
    table.update([f"c{number}" for number in range(500)])
    assert table.containers(containers_hash(["c499"])) == ("c499",)
    assert table.containers(containers_hash(["c7", "c8"])) == ("c7", "c8")
    assert table.containers(containers_hash(["c8", "c7"])) is None
    assert len(table._by_hash) == 501 < MOST_PIPELINES


def test_the_table_is_made_again_only_for_other_containers() -> None:
    table = PipelineTable()
    assert table.update(["a", "b"])
    assert not table.update(["b", "a"])
