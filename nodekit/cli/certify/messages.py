"""What the processes tell, a line of JSON each."""

from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from nodekit.config.providers import Kind

Outcome: TypeAlias = Literal["passed", "failed", "skipped", "changed"]
"""skipped: by the suite itself, with a reason; changed: by the package, so that it says nothing of it."""


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found"):
    """A class of tests that is a suite's."""

    id: str
    suite: str
    kind: Kind
    items: int
    """How many tests will be run of it, parameters counted."""
    missing: tuple[str, ...]
    """Tests of its suite that none of them is."""
    changed: tuple[str, ...]
    """Tests of its suite that are not the suite's any more."""
    limits: tuple[str, ...]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A test that runs now."""

    id: str
    of: str
    """The class that it is of."""
    test: str
    """The function."""


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """What came of a test."""

    id: str
    of: str
    test: str
    outcome: Outcome
    text: str = ""
    """The assertion, or the reason."""
    backend: str = ""
    part: str = ""
    """The class of what was tested, where the test took it."""


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """A file of tests that cannot be collected, or a process that broke off between tests."""

    what: str
    """A sentence."""
    text: str


Told: TypeAlias = Found | Begun | Ended | Broken


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told, in a file that the variable `ORDER` names."""

    report: Path
    """Where it tells."""
    done: tuple[str, ...] = ()
    """Tests that need no run."""


ORDER = "NODEKIT_CERTIFY_ORDER"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """An offer, and what is known of its settings."""

    kind: Kind
    name: str
    value: str
    """``module:attribute``, as the entry point has it."""
    given: dict[str, Any] = {}
    """Settings of the command line."""
    file: Path | None = None
    """A node file with more of them."""
    folder: Path
    """Where what it needs may be put while it is looked at."""

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.name}"


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of an offer."""

    imported: bool = True
    suites: tuple[str, ...] = ()
    """Those that can be made for it."""
    roles: tuple[str, ...] = ()
    """Of a plugin: which of the suites of plugins are about what it does."""
    limits: tuple[str, ...] = ()
    part: str = ""
    """The class of what it builds."""
    reason: str = ""
    """Why no suite can be made."""
    cure: str = ""


T = TypeVar("T")


def encoded(value: msgspec.Struct) -> bytes:
    """As JSON on one line; paths are texts."""
    return msgspec.json.encode(value, enc_hook=str)


def decoded(file: Path, kind: type[T]) -> T:
    """What `encoded` has written into a file."""
    return msgspec.json.decode(file.read_bytes(), type=kind, dec_hook=lambda path, text: path(text))
