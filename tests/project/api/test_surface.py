"""The plugin API is the one that is written down: a change of it is seen in the commit that makes it."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec
import pytest

import nodekit
from nodekit.config.compose import NodeSettings
from nodekit.hooks.specs import HOOKS

from . import surface as listing
from .surface import BASELINE, named, surface


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return surface()


def test_the_plugin_api_is_the_one_that_is_written_down(lines: list[str]) -> None:
    written = BASELINE.read_text(encoding="utf-8").splitlines()
    advice = "the plugin API has changed: name the change in the changelog, then run `make api` and commit its file"
    assert lines == written, advice


def test_everything_public_is_listed(lines: list[str]) -> None:
    listed = {re.findall("`(.*?)`", line)[0] for line in lines}
    assert {f"nodekit.{name}" for name in nodekit.__all__} <= listed
    assert {*HOOKS} <= listed
    assert {f"node.{field.name}" for field in msgspec.structs.fields(NodeSettings)} <= listed
    assert {"runners.docker.containers.image", "plugins.guardian.containers.external", "nodekit job run"} <= listed
    assert lines == sorted(set(lines))


def test_a_real_change_changes_the_surface(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def nodekit_admit(self: Any, request: nodekit.JobRequest, node: nodekit.Node, more: int) -> None: ...

    class Settings(NodeSettings, frozen=True, kw_only=True):
        concurrency: int = 3
        colour: str = "red"

    monkeypatch.setitem(HOOKS, "nodekit_admit", nodekit_admit)  # type: ignore[arg-type]
    monkeypatch.setattr(listing.config, "NodeSettings", Settings)
    monkeypatch.setattr(nodekit, "__all__", [name for name in nodekit.__all__ if name != "Finding"])
    changed = {re.findall("`(.*?)`", line)[0] for line in {*lines} ^ {*surface()}}
    assert {name for name in changed if ".Finding." not in name} == {
        *("nodekit_admit", "node.colour", "node.concurrency", "nodekit.Finding"),
    }


class Asks(Protocol):
    @property
    def there(self) -> "int | None": ...

    def opened(self, *, key: str = "a") -> AbstractAsyncContextManager[Any]: ...


class Fields(msgspec.Struct):
    a: int
    b: Callable[[int], str] | None = None
    c: list[int] = []


async def called(a: int, /, b: str = "x", *more: int, c: bool, **rest: Any) -> list[int]:
    return []


def test_lines_say_types_defaults_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Asks, Fields):
        monkeypatch.setattr(kind, "__module__", "nodekit.example")
    assert [*named("x.Asks", Asks), *named("x.Fields", Fields), *named("x.called", called)] == [
        "protocol `x.Asks` (Protocol)",
        "protocol-method `x.Asks.opened` (*, key: str = 'a') -> AbstractAsyncContextManager[Any]",
        "protocol-property `x.Asks.there` -> int | None",
        "struct `x.Fields` (Struct)",
        "field `x.Fields.a` [0] int",
        "field `x.Fields.b` [1] Callable[[int], str] | None = None",
        "field `x.Fields.c` [2] list[int] = list()",
        "function `x.called` async (a: int, /, b: str = 'x', *more: int, c: bool, **rest: Any) -> list[int]",
    ]
