"""Loggers have one name for each component. The table `[log]` knows it, and the reference says what is logged there."""

import ast
import re
from collections.abc import Iterator

import pytest
from paths import ROOT

from nodekit.config.log_settings import CONTAINER, LOGGERS

REFERENCE = ROOT / "docs" / "reference" / "node-file.md"


def names() -> Iterator[tuple[str, str]]:
    """Yield each name that a logger is made with, and the file."""
    for place in ("nodekit", "plugins", "contrib"):
        for file in sorted((ROOT / place).rglob("*.py")):
            if {"tests", "testing", "templates"} & {*file.relative_to(ROOT).parts}:
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Attribute(attr="getLogger"), args=[ast.Constant(value=str(name))]):
                        yield name, str(file)
                    case _:
                        pass


def test_each_logger_is_known_to_the_log() -> None:
    assert [(name, file) for name, file in names() if name and name not in LOGGERS] == []
    assert len({*names()}) > 20


@pytest.mark.parametrize("plugin", ["docker", "process", "remote", "apikeys"])
def test_the_loggers_of_a_plugin_bear_its_name(plugin: str) -> None:
    own = {name for name, file in names() if f"/nodekit_{plugin}/" in file}
    assert own <= {f"nodekit.{plugin}", "nodekit.calls"}


def test_the_reference_says_what_each_logger_has() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    table = text.partition("| logger | lines |")[2].partition("\n\n")[0]
    found = {*re.findall(r"`(nodekit[\w.]*)`", table)}
    assert found == {name if name != CONTAINER else f"{CONTAINER}.ID" for name in LOGGERS}
