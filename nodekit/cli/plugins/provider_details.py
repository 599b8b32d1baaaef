"""The description of one entry point, which is imported for it."""

import dis
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from importlib.metadata import EntryPoint
from io import StringIO
from typing import Any, Protocol, get_type_hints

import msgspec

import nodekit
from nodekit.cli.config.field_docs import summary
from nodekit.cli.config.key_texts import Key, keys_of
from nodekit.cli.plugins.catalogue import PROVIDERS, expected
from nodekit.config.distributions import name_of, said_by, version_of
from nodekit.config.providers import Provider, load_only
from nodekit.hooks.specs import HOOKS
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.store import JobStore


class Portrait(msgspec.Struct, frozen=True, omit_defaults=True):
    """The facts about an object that a package provides.

    - `text`: Its description, from a docstring.
    - `summary`: The summary of the distribution.
    - `file`: The file of the module.
    - `capabilities`: Optional Protocols that it implements.
    - `container_keys`: For a runner, the keys of its containers. For a plugin, the keys that it reads from every
      container.
    """

    kind: str
    name: str
    text: str
    distribution: str | None
    version: str | None
    summary: str | None
    home_page: str | None
    module: str
    file: str | None
    hooks: Sequence[str] = ()
    capabilities: Sequence[str] = ()
    keys: Sequence[Key] = ()
    container_keys: Sequence[Key] = ()


def portrait(kind: str, entry: EntryPoint) -> Portrait:
    """Import the entry point and describe it. Raise `NodekitError` if the import fails."""
    with redirect_stdout(StringIO()):
        found: Any = load_only([entry], expected(kind), f"{kind} {entry.name!r}")
    provider: Provider[Any] | None = found if kind in PROVIDERS else None
    made = _made_by(provider) if provider else None
    module = sys.modules.get(entry.module)
    texts = [getattr(found, "help", None) or "", summary(made), summary(module), summary(found)]
    return Portrait(
        kind=kind,
        name=entry.name,
        text=next((inspect.cleandoc(text).partition("\n\n")[0] for text in texts if text), ""),
        distribution=name_of(entry.dist),
        version=version_of(entry.dist),
        summary=said_by(entry.dist, "Summary"),
        home_page=_home_page(entry),
        module=entry.module,
        file=getattr(module, "__file__", None),
        hooks=[name for name in HOOKS if hasattr(made, name)],
        capabilities=list(_capabilities(made)),
        keys=keys_of(provider.config, ("containers",) if kind == "runner" else ()) if provider else (),
        container_keys=keys_of(provider.container, ("rules",)) if provider and provider.container else (),
    )


def _made_by(provider: Provider[Any]) -> type[Any] | None:
    """Return the class of the component, found without building one: from the annotation, or from the code."""
    build: Any = provider.build
    if inspect.isclass(build):
        return build
    with suppress(Exception):  # annotations may use names that only a type checker imports
        found = get_type_hints(build).get("return")
        if inspect.isclass(found):
            return found
    code = getattr(build, "__code__", None)
    named = [getattr(build, "__globals__", {}).get(name) for name in (code.co_names if code else ())]
    return next((one for one in named if inspect.isclass(one) and not issubclass(one, msgspec.Struct)), None)


def _capabilities(made: type[Any] | None) -> Iterator[str]:
    """Yield the names of Protocols that extend those of a runner or a store, and that the class implements."""
    for name in nodekit.__all__:
        protocol: Any = getattr(nodekit, name)
        if inspect.isclass(protocol) and Protocol in protocol.__bases__ and _extends_a_component(protocol):
            more = [member for member in vars(protocol) if not member.startswith("_")]
            if made and all(hasattr(made, member) or member in _attributes(made) for member in more):
                yield name


def _attributes(made: type[Any]) -> set[str]:
    """Return the attributes that its constructors set, as far as their code shows it."""
    codes = [code for base in made.__mro__ if (code := getattr(vars(base).get("__init__"), "__code__", None))]
    return {str(step.argval) for code in codes for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}


def _extends_a_component(protocol: type[Any]) -> bool:
    return any(base in protocol.__mro__ and protocol is not base for base in (ContainerRunner, JobStore))


def _home_page(entry: EntryPoint) -> str | None:
    """Return the distribution's home page, or else the first URL that it names."""
    if own := said_by(entry.dist, "Home-page"):
        return own
    metadata = entry.dist.metadata if entry.dist else None
    urls = [str(url).partition(", ") for url in (metadata.get_all("Project-URL") or ())] if metadata else []
    named = {label.lower(): url for label, _, url in urls}
    return named.get("homepage") or named.get("home") or next(iter(named.values()), None)
