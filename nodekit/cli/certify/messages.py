"""The messages between the processes; each is a line of JSON."""

from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from nodekit.config.providers import Kind

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found"):
    """A class of tests that subclasses a suite.

    - `items`: Number of its tests, with each parameter set counted, and those of its suite that are not collected.
    """

    id: str
    suite: str
    kind: Kind
    items: int
    limits: tuple[str, ...]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A test that has begun.

    - `of`: The id of its class.
    - `test`: The name of its function.
    """

    id: str
    of: str
    test: str


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The result of a test.

    - `text`: The assertion that failed, or the reason.
    - `component`: The class of the tested component, if the test used its fixture.
    """

    id: str
    of: str
    test: str
    outcome: Outcome
    text: str = ""
    backend: str = ""
    component: str = ""


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """A file of tests that cannot be collected, or a process that died between tests.

    - `what`: A sentence that says what is broken.
    """

    what: str
    text: str


Message: TypeAlias = Found | Begun | Ended | Broken


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The order to a process, in the file that the environment variable `ORDER` names.

    - `report`: The file for its messages.
    - `done`: Ids of tests that need not run.
    """

    report: Path
    done: tuple[str, ...] = ()


ORDER = "NODEKIT_CERTIFY_ORDER"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A provider, and the known part of its settings.

    - `value`: ``module:attribute``, as in the entry point.
    - `given`: Settings from the command line.
    - `file`: A node file with more settings.
    - `folder`: The folder for its files while it is examined.
    """

    kind: Kind
    name: str
    value: str
    given: dict[str, Any] = {}
    file: Path | None = None
    folder: Path

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.name}"


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """The result of examining a provider.

    - `suites`: Suites that can be made for it.
    - `roles`: Suites that fit the hooks of a plugin; empty for other kinds.
    - `component`: The class of the component that it builds.
    - `reason`: The reason why no suite can be made.
    """

    imported: bool = True
    suites: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    component: str = ""
    reason: str = ""
    cure: str = ""


T = TypeVar("T")


def encoded(value: msgspec.Struct) -> bytes:
    """Encode a message as JSON on one line; paths become strings."""
    return msgspec.json.encode(value, enc_hook=str)


def decoded(file: Path, kind: type[T]) -> T:
    """Decode a file that `encoded` has written."""
    return msgspec.json.decode(file.read_bytes(), type=kind, dec_hook=lambda path, text: path(text))
