"""The messages between the processes; each is a line of JSON."""

from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from nodekit.config.providers import Kind

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found"):
    """A class of tests that subclasses a suite."""

    id: str
    suite: str
    kind: Kind
    items: int
    """Number of its tests, with each parameter set counted, and those of its suite that are not collected."""
    limits: tuple[str, ...]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A test that has begun."""

    id: str
    of: str
    """The id of its class."""
    test: str
    """The name of its function."""


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The result of a test."""

    id: str
    of: str
    test: str
    outcome: Outcome
    text: str = ""
    """The assertion that failed, or the reason."""
    backend: str = ""
    component: str = ""
    """The class of the tested component, if the test used its fixture."""


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """A file of tests that cannot be collected, or a process that died between tests."""

    what: str
    """A sentence that says what is broken."""
    text: str


Message: TypeAlias = Found | Begun | Ended | Broken


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The order to a process, in the file that the environment variable `ORDER` names."""

    report: Path
    """The file for its messages."""
    done: tuple[str, ...] = ()
    """Ids of tests that need not run."""


ORDER = "NODEKIT_CERTIFY_ORDER"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A provider, and the known part of its settings."""

    kind: Kind
    name: str
    value: str
    """``module:attribute``, as in the entry point."""
    given: dict[str, Any] = {}
    """Settings from the command line."""
    file: Path | None = None
    """A node file with more settings."""
    folder: Path
    """The folder for its files while it is examined."""

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.name}"


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """The result of examining a provider."""

    imported: bool = True
    suites: tuple[str, ...] = ()
    """Suites that can be made for it."""
    roles: tuple[str, ...] = ()
    """Suites that fit the hooks of a plugin; empty for other kinds."""
    limits: tuple[str, ...] = ()
    component: str = ""
    """The class of the component that it builds."""
    reason: str = ""
    """The reason why no suite can be made."""
    cure: str = ""


T = TypeVar("T")


def encoded(value: msgspec.Struct) -> bytes:
    """Encode a message as JSON on one line; paths become strings."""
    return msgspec.json.encode(value, enc_hook=str)


def decoded(file: Path, kind: type[T]) -> T:
    """Decode a file that `encoded` has written."""
    return msgspec.json.decode(file.read_bytes(), type=kind, dec_hook=lambda path, text: path(text))
