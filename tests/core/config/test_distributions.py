"""A composition or a command reads the metadata of installed packages once, however often it is asked for."""

import importlib.metadata
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from planted import STORE, plant

from nodekit import CompositionError, load_node
from nodekit.cli import main
from nodekit.config.compose import compose, read_node_file

NODE = '[store]\nuse = "memory"\n'
USE = '[[plugins]]\nuse = "guardian"\n'
WRONG = '[[plugins]]\nuse = "nobody"\n'


class Reads(Counter[str]):
    """Counts the reads of files of installed distributions, and the searches for all distributions."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        read, find = importlib.metadata.PathDistribution.read_text, importlib.metadata.distributions

        def read_text(found: importlib.metadata.PathDistribution, name: str) -> str | None:
            self[f"{found._path}/{name}"] += 1  # type: ignore[attr-defined]
            return read(found, name)

        def distributions() -> object:
            self["distributions"] += 1
            return find()

        patch.setattr(importlib.metadata.PathDistribution, "read_text", read_text)
        patch.setattr(importlib.metadata, "distributions", distributions)

    def most(self, name: str) -> int:
        """Return the highest number of reads among files of a name."""
        return max((count for path, count in self.items() if path.endswith(f"/{name}")), default=0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def test_a_node_file_with_many_parts_reads_as_much_as_one_with_few(tmp_path: Path, reads: Reads) -> None:
    file = tmp_path / "node.toml"
    counts: list[dict[str, int]] = []
    for text in (USE, USE * 50):
        file.write_text(NODE + text)
        load_node(file)
        counts.append(dict(reads))
        reads.clear()
    assert counts[0] == counts[1]
    assert counts[0]["distributions"] == 1


def test_names_that_nobody_offers_cost_no_more_reading(tmp_path: Path, reads: Reads) -> None:
    counts: list[dict[str, int]] = []
    for text in (WRONG, WRONG * 50 + "[[plugins]]\n" * 50):
        (tmp_path / "node.toml").write_text(NODE + text)
        with pytest.raises(CompositionError):
            load_node(tmp_path / "node.toml")
        counts.append(dict(reads))
        reads.clear()
    assert counts[0] == counts[1]
    assert counts[0]["distributions"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["nobody"],
        ["job", "--help"],
        ["well"],
        ["check", "node.toml"],
        ["check", "node.well"],
        ["doctor"],
        ["doctor", "node.toml"],
        ["doctor", "node.well"],
        ["config", "schema"],
        ["config", "schema", "node.toml"],
        ["config", "show", "node.toml"],
        ["config", "show", "node.well"],
        ["plugins"],
        ["plugins", "--json"],
        ["plugins", "check"],
        ["plugins", "show", "memory"],
        ["plugins", "show", "nobody"],
        ["certify", "nodekit-wel"],
        ["certify", "well"],
        ["certify", "nodekit-plain"],
        ["new", "store", "memory"],
        ["serve"],
        ["serve", "bad.toml"],
    ],
    ids=" ".join,
)
def test_a_command_reads_each_distribution_once(
    tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    plant(tmp_path, "nodekit-well", {"stores": "well", "commands": "well", "doctor": "well"}, STORE)
    plant(tmp_path, "nodekit-plain", "")
    code = (
        "from nodekit import Format, NodeTables\n"
        "provider = Format(lambda path: NodeTables({'store': {'use': 'memory'}}))"
    )
    plant(tmp_path, "nodekit-form", {"formats": "well"}, code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "node.toml").write_text(NODE + USE * 3)
    (tmp_path / "bad.toml").write_text(WRONG * 3)
    (tmp_path / "node.well").touch()
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert reads.most("entry_points.txt") <= 1, {path: count for path, count in reads.items() if count > 1}


def test_the_next_composition_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node.toml").write_text('[store]\nuse = "late"\n')
    for _ in range(2):
        with pytest.raises(CompositionError, match="unknown store 'late'"):
            load_node(tmp_path / "node.toml")
    plant(tmp_path, "nodekit-late", {"stores": "late"}, STORE)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        load_node(tmp_path / "node.toml")
    with pytest.raises(CompositionError, match="unknown store 'late'"):
        compose(read_node_file(tmp_path / "node.toml"), tmp_path / "node.toml")


def test_a_failed_composition_leaves_nothing_that_was_read(tmp_path: Path, reads: Reads) -> None:
    (tmp_path / "node.toml").write_text(WRONG)
    for _ in range(2):
        with pytest.raises(CompositionError):
            load_node(tmp_path / "node.toml")
    assert reads["distributions"] == 2
