"""What of the plugin API is on its way out, and what is said to those who still use it.

The tables below are filled as the API changes, and an entry stays when what it is about is gone: from then on it says
what to do instead. ``docs/explanation/compatibility.md`` has the rules.
"""

import inspect
import warnings
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import msgspec

from nodekit._api import reached


class PluginDeprecationWarning(FutureWarning):
    """A plugin, or a node file, uses what the next major version of the plugin API will not have.

    It works until then. The text names who uses what, since when and until when, and the cure. Operators see it: they
    are the ones who update packages.
    """


class Deprecation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that works for now. Versions are those of the plugin API."""

    since: str
    until: str
    """The version that does not have it any more."""
    cure: str
    """What to do instead, in the imperative."""
    now: str | None = None
    """The name that it has by now, under which it is taken until it is gone; None: it was not renamed."""

    @property
    def gone(self) -> bool:
        return reached(self.until)

    def told(self, what: str) -> str:
        """`what` names who uses what, as the beginning of a sentence."""
        return f"{what}, which is deprecated since plugin API {self.since} and gone in {self.until}: {self.cure}"

    def told_lacking(self, what: str) -> str:
        return f"{what}, and has to from plugin API {self.until} on (it is there since {self.since}): {self.cure}"

    def told_gone(self) -> str:
        return f"is gone since plugin API {self.until}: {self.cure}"


HOOKS: dict[str, Deprecation] = {}
"""By the hook's name. One that was renamed keeps its arguments."""
HOOK_ARGUMENTS: dict[tuple[str, str], Deprecation] = {}
"""By the hook's name, as it is by now, and the argument's."""
NAMES: dict[str, Deprecation] = {}
"""By the name that the package `nodekit` had."""
KEYS: dict[tuple[str, str], Deprecation] = {}
"""By the Struct of a table (``nodekit.config.NodeSettings``) and the key."""
ADDED_ARGUMENTS: dict[tuple[str, str, str], Deprecation] = {}
"""By Protocol, method and argument: what a method did not always take. To go without is what is deprecated."""


def warn(texts: Iterable[str]) -> None:
    """Say each once, as a warning about the code outside of nodekit that came here."""
    for text in dict.fromkeys(texts):
        warnings.warn(text, PluginDeprecationWarning, stacklevel=_outside())


def plugin_of(thing: object) -> str:
    """How warnings name a plugin: its class, or module, and the distribution that has it, where one does."""
    name = thing.__name__ if isinstance(thing, ModuleType) else type(thing).__name__
    module = thing.__name__ if isinstance(thing, ModuleType) else type(thing).__module__
    owner = _distribution(module.partition(".")[0])
    return f"{name} of {owner}" if owner else name


def public_name(name: str, names: Mapping[str, Any]) -> Any:
    """What `nodekit.NAME` is where the package has no such name: one that it had."""
    module = _caller(3)
    importing = module == "importlib._bootstrap"  # `from` looks first, and then asks
    known = NAMES.get(name)
    if known is not None and known.gone:
        error = ImportError if importing else AttributeError  # the text of the latter would be lost on the way
        raise error(f"nodekit.{name} {known.told_gone()}")
    if known is None or known.now is None:
        raise AttributeError(f"module 'nodekit' has no attribute {name!r}")
    if not importing:
        owner = _distribution(module.partition(".")[0])
        warn([known.told(f"{module}{f' of {owner}' if owner else ''} uses nodekit.{name}")])
    return names[known.now]


def keys_now(table: Mapping[str, Any], struct: type) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """A table of a node file with the keys that its Struct has by now; warnings; and by key, what is wrong.

    Each warning begins with the key.
    """
    warned: list[str] = []
    wrong: dict[str, str] = {}
    found = dict(table)
    for base in struct.__mro__ if KEYS else ():
        for key in table:
            known = KEYS.get((f"{base.__module__}.{base.__qualname__}", key))
            if known is None:
                continue
            if known.gone:
                wrong[key] = known.told_gone()
            elif known.now in table:
                wrong[key] = f"is the old name of {known.now!r}, which is there too; remove it"
            else:
                warned.append(known.told(key))
                found[known.now or key] = found.pop(key)
    return found, warned, wrong


def _distribution(package: str) -> str | None:
    """Whoever installed a package, and its version; asked only when there is something to say."""
    from importlib.metadata import distributions, packages_distributions, version

    for found in distributions():  # an editable installation has no list of its packages
        if any(entry.module.partition(".")[0] == package for entry in found.entry_points if _ours(entry.group)):
            return f"{found.name} {found.version}"
    owners = packages_distributions().get(package)
    return f"{owners[0]} {version(owners[0])}" if owners else None


def _ours(group: str) -> bool:
    return group.startswith("nodekit.")


def _outside() -> int:
    """The stack level, as seen by `warn`, of the first code that is not nodekit's."""
    level = 1
    while _caller(level + 1).partition(".")[0] in ("nodekit", "importlib"):
        level += 1
    return level


def _caller(level: int) -> str:
    """The module of the code that called, one level after the other; level 1 is whoever asks."""
    frame = inspect.currentframe()
    for _ in range(level):
        frame = frame.f_back if frame else None
    return str(frame.f_globals.get("__name__")) if frame else ""
