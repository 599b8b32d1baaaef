"""A list of the plugin API: sorted lines of the kind, the name in backticks, and the value."""

import importlib
import inspect
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from importlib.metadata import EntryPoint, distribution, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from msgspec import Raw

import nodekit
from nodekit import Provider
from nodekit.cli import exit_codes as _exit
from nodekit.cli import main
from nodekit.config import compose as config
from nodekit.config.providers import Kind
from nodekit.hooks.specs import HOOKS

from .typed import signed, typed, valued

DISTRIBUTION = "nodekit-compute"
PACKAGES = ("nodekit", "nodekit.testing", "nodekit_asgi", "nodekit_function", "nodekit_memory", "nodekit_remote")
MORE_NAMES = ("nodekit.testing.store_model.JobStoreModelContract",)
BASELINE = Path(__file__).with_name("plugin_api.txt")
"""The plugin API as it was when `make api` last ran."""
PYTEST_PLUGIN = "nodekit.testing.pytest_plugin"
UNLISTED = ("nodekit.API_VERSION", "nodekit.__version__")
"""Names whose values change with each release."""
SIMPLE = (bool, int, float, str, type(None))
CALLED = ("__aenter__", "__aexit__", "__call__", "__iter__", "__aiter__", "__anext__")


def surface() -> list[str]:
    """Return the whole plugin API as installed here."""
    parts = (names(), fixtures(), hooks(), providers(), settings(), groups(), commands(), exit_codes())
    return sorted({line for part in parts for line in part})


def line(kind: str, name: str, what: str = "") -> str:
    return f"{kind} `{name}`{what and ' '}{what}"


# -- names ----------------------------------------------------------------------------------------


def names() -> Iterator[str]:
    public = [f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__]
    for name in (*public, *MORE_NAMES):
        module, _, own = name.rpartition(".")
        yield from named(name, getattr(importlib.import_module(module), own))


def fixtures() -> Iterator[str]:
    """Yield the fixtures of the pytest plugin."""
    if find_spec(PYTEST_PLUGIN):
        for name, value in vars(importlib.import_module(PYTEST_PLUGIN)).items():
            if is_fixture(value) and not name.startswith("_"):
                yield line("fixture", f"{PYTEST_PLUGIN}.{name}")


def is_fixture(value: object) -> bool:
    return "ixture" in type(value).__name__ or hasattr(value, "_pytestfixturefunction")


def named(name: str, value: Any) -> Iterator[str]:
    if name in UNLISTED:
        yield line("constant", name)
    elif inspect.isclass(value):
        yield from of_class(name, value)
    elif inspect.isroutine(value):
        yield line("function", name, signed(value))
    elif isinstance(value, Provider):
        yield line("provider", name)
    elif isinstance(value, int | str | frozenset | set | tuple | Raw):
        yield line("constant", name, f"= {valued(value)}")
    else:
        yield line("type", name, f"= {typed(value)}")


def of_class(name: str, kind: type) -> Iterator[str]:
    if kind.__module__ == "builtins":
        yield line("type", name, f"= {kind.__name__}")
        return
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    protocol = getattr(kind, "_is_protocol", False)
    struct = issubclass(kind, msgspec.Struct)
    yield line("protocol" if protocol else "struct" if struct else "class", name, f"({bases})" if bases else "")
    if struct:
        yield from fields("event" if kind in get_args(nodekit.Event) else "field", name, kind)
    elif not protocol and ours(kind, "__init__"):
        yield line("method", f"{name}.__init__", signed(kind.__init__, bound=True))  # type: ignore[misc]
    for member in dir(kind):
        taken = member in CALLED or not member.startswith(("_", "test_", "pytestmark"))
        if taken and ours(kind, member) and not (struct and member in kind.__struct_fields__):
            yield of_member("protocol-" * protocol, f"{name}.{member}", inspect.getattr_static(kind, member))


def ours(kind: type, member: str) -> bool:
    """Return True if a class of nodekit defines the member, not a base class from elsewhere."""
    return any(member in vars(base) and base.__module__.startswith("nodekit") for base in kind.__mro__)


def of_member(kind: str, name: str, value: Any) -> str:
    if isinstance(value, property | cached_property):
        getter = value.fget if isinstance(value, property) else value.func
        returned = inspect.signature(getter).return_annotation if getter else None
        return line(f"{kind}property", name, f"-> {typed(returned)}")
    if isinstance(value, classmethod | staticmethod):
        return line(f"{kind}method", name, signed(value.__func__, bound=isinstance(value, classmethod)))
    if inspect.isfunction(value):
        return line(f"{kind}method", name, signed(value, bound=True))
    if is_fixture(value):
        return line("fixture", name)
    told = value.value if isinstance(value, Enum) else value
    return line(f"{kind}attribute", name, f"= {valued(told)}" if isinstance(told, SIMPLE) else "")


def fields(kind: str, name: str, struct: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the fields; those that can be positional have a number."""
    by_place = [p.name for p in inspect.signature(struct).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    for field in msgspec.structs.fields(struct):
        place = f"[{by_place.index(field.name)}] " if kind == "field" and field.name in by_place else ""
        yield line(kind, f"{name}.{field.name}", f"{place}{typed(field.type)}{defaulted(field)}")


def defaulted(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    given = field.default is not msgspec.NODEFAULT
    return f" = {valued(field.default) if given else f'{field.default_factory.__name__}()'}"  # type: ignore[union-attr]


# -- hooks, offers and settings -------------------------------------------------------------------


def hooks() -> Iterator[str]:
    for name, hook in HOOKS.items():
        yield line("hook", name, signed(hook, bound=True))


def provided() -> Iterator[tuple[EntryPoint, Provider[Any] | None]]:
    """Yield the providers of nodekit itself; other distributions may be installed beside it."""
    for entry in distribution(DISTRIBUTION).entry_points:
        if entry.group.startswith("nodekit."):
            found = entry.load() if entry.group in kinds() else None
            yield entry, found if isinstance(found, Provider) else None


def providers() -> Iterator[str]:
    for entry, _ in provided():
        if entry.group != "nodekit.commands":
            yield line("provider", f"{entry.group.removeprefix('nodekit.')}.{entry.name}")


def settings() -> Iterator[str]:
    """Yield the keys of node files."""
    for name, struct in vars(config).items():
        if name.endswith("Settings") and inspect.isclass(struct) and issubclass(struct, msgspec.Struct):
            yield from keys(name.removesuffix("Settings").lower(), struct)
    for entry, provider in provided():
        if provider:
            place = f"{entry.group.removeprefix('nodekit.')}.{entry.name}"
            yield from keys(place, provider.config)
            yield from keys(f"{place}.containers", provider.container) if provider.container else ()


def keys(place: str, struct: type[msgspec.Struct]) -> Iterator[str]:
    for field in msgspec.structs.fields(struct):
        if field.name not in ("containers", "rules"):
            yield line("key", f"{place}.{field.name}", f"{typed(field.type)}{defaulted(field)}")


def kinds() -> set[str]:
    return {f"nodekit.{kind}s" for kind in get_args(Kind)}


def groups() -> Iterator[str]:
    known = {entry.group for entry in distribution(DISTRIBUTION).entry_points if entry.group.startswith("nodekit.")}
    for group in known | kinds():
        yield line("group", group)


# -- the command line -----------------------------------------------------------------------------


def commands() -> Iterator[str]:
    ours = {entry.name for entry in distribution(DISTRIBUTION).entry_points if entry.group == "nodekit.commands"}
    others = set(entry_points(group="nodekit.commands").names) - ours
    yield from command("nodekit", main, skip=others)


def command(name: str, one: click.Command, skip: set[str] = frozenset()) -> Iterator[str]:  # type: ignore[assignment]
    arguments = [p.make_metavar(click.Context(one)) for p in one.params if isinstance(p, click.Argument)]
    yield line("command", name, " ".join(arguments))
    for option in one.params:
        if isinstance(option, click.Option):
            kind = "flag" if option.is_flag else option.type.name
            chosen = "|".join(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else kind
            default = option.to_info_dict()["default"]
            shown = f" = {valued(default)}" if default is not None and not option.is_flag else ""
            yield line("option", f"{name} {max(option.opts, key=len)}", f"{'/'.join(option.opts)} {chosen}{shown}")
    if isinstance(one, click.Group):
        context = click.Context(one)
        for inner in one.list_commands(context):
            if inner not in skip and (found := one.get_command(context, inner)):
                yield from command(f"{name} {inner}", found)


def exit_codes() -> Iterator[str]:
    for name, code in vars(_exit).items():
        if name.isupper() and isinstance(code, int):
            yield line("exit code", str(code), name)
