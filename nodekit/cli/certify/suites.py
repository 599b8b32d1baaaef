"""Which suite is for which kind of offer."""

from collections.abc import Iterable

import msgspec

import nodekit.testing
from nodekit.config.providers import Kind


class Suite(msgspec.Struct, frozen=True):
    """A suite of `nodekit.testing`, by its name."""

    name: str
    kind: Kind
    fixture: str
    """What gives the part that is tested."""
    base: bool = True
    """Whether an offer of the kind is certified by it alone."""


SUITES = {
    suite.name: suite
    for suite in (
        Suite("JobTableContract", "store", "table", base=False),
        Suite("JobStoreContract", "store", "store"),
        Suite("DurableJobStoreContract", "store", "store"),
        Suite("SharedStoreContract", "store", "store"),
        Suite("JobStoreModelContract", "store", "store", base=False),
        Suite("ContainerRunnerContract", "runner", "runner"),
        Suite("StreamingRunnerContract", "runner", "runner"),
        Suite("TransportContract", "transport", "transport"),
        Suite("HttpTransportContract", "transport", "transport"),
        Suite("PipelineContract", "pipeline", "pipeline"),
        Suite("PluginContract", "plugin", "plugin"),
        Suite("GuardContract", "plugin", "guard"),
        Suite("ObserverContract", "plugin", "observer"),
    )
}


def there(name: str) -> type | None:
    """The suite of that name, if `nodekit.testing` has it."""
    found = getattr(nodekit.testing, name, None)
    return found if isinstance(found, type) else None


def is_ours(cls: type) -> bool:
    return cls.__module__ == nodekit.testing.__name__ or cls.__module__.startswith(f"{nodekit.testing.__name__}.")


def suite_of(cls: type | None) -> tuple[Suite, type] | None:
    """The suite that a class of tests is for, and its class: the nearest of its bases."""
    for base in cls.__mro__[1:] if cls else ():
        if is_ours(base) and base.__name__ in SUITES:
            return SUITES[base.__name__], base
    return None


def needed(kind: Kind, roles: Iterable[str]) -> list[frozenset[str]]:
    """For an offer to be certified, one of each of these sets. A plugin has those of what it does."""
    if kind == "plugin" and (mine := list(roles)):
        return [frozenset([role]) for role in mine]
    return [frozenset(suite.name for suite in SUITES.values() if suite.kind == kind and suite.base)]
