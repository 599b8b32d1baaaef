"""The plugin API changes only with a line in the changelog, and breaks only with a new major version.

The listed surface is compared with the baseline of the last release. Altered surfaces show that each kind of change is
found.
"""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import hypothesis  # noqa: F401 - the surface imports it, and it warns if that happens after `gc.freeze`
import msgspec
import pytest

import nodekit
from nodekit.config.compose import NodeSettings
from nodekit.hooks import specs as hookspecs

from . import surface as listing
from .changes import (
    CHANGELOG,
    Baseline,
    changes,
    named_in,
    newest_baseline,
    newest_version,
    unsettled,
    write_baseline,
)
from .surface import named, surface

EMPTY = "# Changelog\n\n## [0.2.0] – unreleased\n\n### Added\n\n- Something.\n\n## [0.1.0] – 2026\n"


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return surface()


def told(before: list[str], after: list[str], *, named: str = "", api: str = "1.1") -> list[str]:
    """Return the advice to a developer who changed the surface since release 0.1.0, with plugin API 1.0."""
    changelog = EMPTY.replace("### Added", f"### Plugin API\n\n- {named}\n\n### Added")
    baseline = Baseline("1.0", "0.1.0", before)
    found = changes(before, after)
    return list(unsettled(found, baseline=baseline, api=api, changelog=changelog))


def test_the_surface_is_the_baseline_or_what_the_changelog_says_of_it(lines: list[str]) -> None:
    baseline = newest_baseline()
    changelog = CHANGELOG.read_text(encoding="utf-8")
    found = changes(baseline.lines, lines)
    todo = list(unsettled(found, baseline=baseline, api=nodekit.API_VERSION, changelog=changelog))
    advice = (
        "The plugin API differs from that of the last release (tests/project/api). CONTRIBUTING.md says what to do:\n\n"
    )
    assert not todo, advice + "\n\n".join(todo)


def test_the_baseline_is_of_a_version_that_was_or_is(lines: list[str]) -> None:
    baseline = newest_baseline()
    assert f"## [{baseline.release}]" in CHANGELOG.read_text(encoding="utf-8")
    assert tuple(map(int, baseline.api.split("."))) <= tuple(map(int, nodekit.API_VERSION.split(".")))


# -- each kind of change is found -----------------------------------------------------------------

GONE = "only plugin API 2.0 may do without it"


def altered(lines: list[str], name: str, old: str, new: str, kind: str = "") -> list[str]:
    """Return the surface with one line changed."""
    (line,) = [line for line in lines if f"`{name}`" in line and line.startswith(kind)]
    assert old in line, line
    return [line.replace(old, new, 1) if one is line else one for one in lines]


def without(lines: list[str], *names: str) -> list[str]:
    rest = [line for line in lines if not any(f"`{name}`" in line for name in names)]
    assert len(rest) == len(lines) - len(names)
    return rest


@pytest.mark.parametrize(
    "name",
    [
        "nodekit.Finding",
        "nodekit.load_node",
        "nodekit.testing.Faults.around",
        "nodekit_remote.ContainerHttp",
        "nodekit_memory.MemoryTable.unfinished",
        "nodekit_function.FunctionRunner.add",
        "nodekit_asgi.AsgiApp",
        "nodekit.JobStore.find",
        "nodekit.JobFinished.job",
        "nodekit.Job.id",
        "nodekit_observe",
        "stores.sqlite",
        "stores.sqlite.path",
        "node.concurrency",
        "nodekit.formats",
        "nodekit doctor",
        "nodekit serve --bind",
        "3",
    ],
)
def test_what_was_removed_is_named_and_needs_a_new_major_version(lines: list[str], name: str) -> None:
    first, second = told(lines, without(lines, name))
    assert f"`{name}`" in first
    assert GONE in first
    assert f"add a line with `{name}` below '### Plugin API' of version 0.2.0 in CHANGELOG.md" in second
    (still,) = told(lines, without(lines, name), named=f"`{name}` is gone.")
    assert GONE in still
    assert told(lines, without(lines, name), named=f"`{name}` is gone.", api="2.0") == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("nodekit.load_node", "path: ", "file: "),
        ("nodekit.load_node", "-> Node", "-> Node | None"),
        ("nodekit.Node.submit", "async ", ""),
        ("nodekit.Node.submit", ")", ", more: int)"),
        ("nodekit.JobStore.find", "limit: int", "limit: int | None"),
        ("nodekit_admit", "request: JobRequest", "asked: JobRequest"),
        ("nodekit_admit", "async ", ""),
        ("nodekit.JobAccepted.job", "` Job", "` JobRequest"),
        ("node.max_pending", "int", "str"),
        ("nodekit.JobStatus.FAILED", "= 'failed'", ""),
        ("nodekit.Refusal", "(NodekitError)", "(Exception)"),
    ],
)
def test_a_change_that_breaks_plugins_needs_a_new_major_version(
    lines: list[str], name: str, old: str, new: str
) -> None:
    changed = altered(lines, name, old, new)
    found = told(lines, changed)
    assert len(found) == 2
    assert GONE in found[0]
    assert f"`{name}`" in found[1]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("nodekit_admit", "node: Node)", "node: Node, attempt: int)"),
        ("nodekit.Node.find", "limit: int", "newest: bool = False, limit: int"),
        ("nodekit.JobStore.settle", "client: str | None", "client: str | None, reason: str | None = None"),
        ("nodekit.load_node", ")", ", *, strict: bool = False)"),
        ("node.concurrency", "= 64", "= 65"),
        ("nodekit.Retry.attempts", " = ", " = 1"),
    ],
)
def test_a_change_that_breaks_nobody_needs_the_changelog_only(lines: list[str], name: str, old: str, new: str) -> None:
    changed = altered(lines, name, old, new)
    (text,) = told(lines, changed)
    assert f"add a line with `{name}`" in text
    assert told(lines, changed, named=f"`{name}` does more.") == []


@pytest.mark.parametrize(
    "line",
    [
        "function `nodekit.brand_new` ()",
        "hook `nodekit_brand_new` async (node: Node) -> None",
        "event `nodekit.JobFinished.seconds` float",
        "field `nodekit.Job.colour` str = 'red'",
        "key `stores.sqlite.colour` str = 'red'",
        "provider `stores.redis`",
        "option `nodekit serve --quiet` --quiet flag",
        "group `nodekit.colours`",
    ],
)
def test_what_is_new_needs_the_changelog_only(lines: list[str], line: str) -> None:
    name = re.findall("`(.*)`", line)[0]
    (text,) = told(lines, [*lines, line])
    assert f"add a line with `{name}`" in text
    assert told(lines, [*lines, line], named=f"`{name}`: new.") == []


@pytest.mark.parametrize(
    "line",
    [
        "key `stores.sqlite.colour` str",
        "field `nodekit.Job.colour` str",
        "protocol-method `nodekit.JobTable.count` async () -> int",
    ],
)
def test_what_is_new_and_required_breaks_those_who_lack_it(lines: list[str], line: str) -> None:
    assert GONE in told(lines, [*lines, line])[0]


def test_a_new_class_is_named_once_and_a_new_method_of_an_old_one_by_its_own_name(lines: list[str]) -> None:
    new = ["struct `nodekit.Brand` (Struct)", "field `nodekit.Brand.name` [0] str = ''"]
    assert told(lines, [*lines, *new], named="`nodekit.Brand`") == []
    (text,) = told(lines, [*lines, "method `nodekit.Node.brands` ()"], named="`nodekit.Node`")
    assert "`nodekit.Node.brands`" in text


def test_another_plugin_api_needs_another_version_unless_it_is_not_released_yet(lines: list[str]) -> None:
    more = [*lines, "hook `nodekit_brand_new` () -> None"]
    (text,) = told(lines, more, named="`nodekit_brand_new`", api="1.0")
    assert 'write API_VERSION = "1.1"' in text
    unreleased = EMPTY.replace("### Added", "### Plugin API\n\n`nodekit_brand_new`").replace("0.2.0", "0.1.0", 1)
    found = changes(lines, more)
    baseline = Baseline("1.0", "0.1.0", lines)
    assert not list(unsettled(found, baseline=baseline, api="1.0", changelog=unreleased))


def test_only_the_section_of_the_newest_version_counts() -> None:
    changelog = EMPTY + "\n### Plugin API\n\n- `nodekit.old`\n"
    assert (newest_version(changelog), named_in(changelog)) == ("0.2.0", set())
    assert named_in(changelog.replace("- Something.", "### Plugin API\n\n- `a.b` and `c`\n\n### Fixed\n- `d`")) == {
        "a.b",
        "c",
    }


def test_nothing_is_told_where_nothing_changed(lines: list[str]) -> None:
    assert told(lines, lines, api="1.0") == []


# -- what is listed is what there is --------------------------------------------------------------


def test_everything_public_is_listed(lines: list[str]) -> None:
    listed = {re.findall("`(.*?)`", line)[0] for line in lines}
    assert {f"nodekit.{name}" for name in nodekit.__all__} <= listed
    assert {name for name in vars(hookspecs) if name.startswith("nodekit_")} <= listed
    assert {f"node.{field.name}" for field in msgspec.structs.fields(NodeSettings)} <= listed
    assert {"runners.docker.containers.image", "plugins.guardian.containers.external", "nodekit job run"} <= listed
    assert lines == sorted(set(lines))


def test_a_real_change_changes_the_surface(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def nodekit_admit(request: nodekit.JobRequest, node: nodekit.Node, more: int) -> None: ...

    class Settings(NodeSettings, frozen=True, kw_only=True):
        concurrency: int = 3
        colour: str = "red"

    monkeypatch.setattr(hookspecs, "nodekit_admit", nodekit_admit)
    monkeypatch.setattr(listing.config, "NodeSettings", Settings)
    monkeypatch.setattr(nodekit, "__all__", [name for name in nodekit.__all__ if name != "Finding"])
    found = {change.name: change.breaks for change in changes(lines, surface()) if ".Finding." not in change.name}
    assert found == {"nodekit_admit": False, "node.colour": False, "node.concurrency": True, "nodekit.Finding": True}


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


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path, lines: list[str]) -> None:
    write_baseline(Baseline("1.9", "0.3.0", ["hook `a` ()"]), tmp_path)
    write_baseline(newest := Baseline("1.10", "0.4.0", lines), tmp_path)
    assert newest_baseline(tmp_path) == newest
