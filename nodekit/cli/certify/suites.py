"""The suites, the kind of provider that each is for, and what a class of tests makes of its suite."""

import inspect
from collections.abc import Iterable, Iterator

import msgspec

import nodekit.testing
from nodekit.config.providers import Kind


class Suite(msgspec.Struct, frozen=True):
    """A suite of `nodekit.testing`.

    - `fixture`: The fixture that gives the tested component.
    - `base`: True if this suite alone can certify a provider of the kind.
    """

    name: str
    kind: Kind
    fixture: str
    base: bool = True


SUITES = {
    suite.name: suite
    for suite in (
        Suite("JobTableContract", "store", "table", base=False),
        Suite("JobStoreContract", "store", "store"),
        Suite("DurableJobStoreContract", "store", "store"),
        Suite("SharedStoreContract", "store", "store"),
        Suite("EngineFaultContract", "store", "open_at", base=False),
        Suite("JobStoreModelContract", "store", "store", base=False),
        Suite("ContainerRunnerContract", "runner", "runner"),
        Suite("StreamingRunnerContract", "runner", "runner"),
        Suite("TransportContract", "transport", "transport"),
        Suite("HttpTransportContract", "transport", "transport"),
        Suite("PipelineContract", "pipeline", "pipeline"),
        Suite("PluginContract", "plugin", "plugin"),
        Suite("GuardContract", "plugin", "guard"),
        Suite("IdentityContract", "plugin", "plugin"),
        Suite("ObserverContract", "plugin", "observer"),
        Suite("StepContract", "plugin", "plugin"),
    )
}


_UNSAID = {"answer": "nobody has said what containers answer"}
"""Methods of suites by which a package describes its component, and the limit if it does not."""


def there(name: str) -> type | None:
    """Return the suite of that name, or None if `nodekit.testing` does not have it."""
    found = getattr(nodekit.testing, name, None)
    return found if isinstance(found, type) else None


def is_ours(cls: type) -> bool:
    return cls.__module__ == nodekit.testing.__name__ or cls.__module__.startswith(f"{nodekit.testing.__name__}.")


def suite_of(cls: type | None) -> tuple[Suite, type] | None:
    """Return the suite of a class of tests, and the suite's class: the nearest of the bases. Return None if none is."""
    for base in cls.__mro__[1:] if cls else ():
        if is_ours(base) and base.__name__ in SUITES:
            return SUITES[base.__name__], base
    return None


def tests_of(suite: type) -> set[str]:
    """Return the names of the tests of a suite."""
    return {name for name in dir(suite) if name.startswith("test_")}


def limits_of(cls: type, suite: type) -> Iterator[str]:
    """Yield the settings of a suite that differ in a class, and what the class does not say."""
    for name in dir(suite):
        given, own = inspect.getattr_static(suite, name), inspect.getattr_static(cls, name, None)
        if not name.startswith("_") and isinstance(given, bool | int | float) and own != given:
            yield f"`{name} = {own!r}`"
    for name, limit in _UNSAID.items():
        if hasattr(suite, name) and inspect.getattr_static(cls, name) is inspect.getattr_static(suite, name):
            yield limit


def needed(kind: Kind, roles: Iterable[str]) -> list[frozenset[str]]:
    """Return sets of suites. A provider must pass one suite of each set. The sets of a plugin depend on its roles."""
    if kind == "plugin" and (mine := list(roles)):
        return [frozenset([role]) for role in mine]
    return [frozenset(suite.name for suite in SUITES.values() if suite.kind == kind and suite.base)]
