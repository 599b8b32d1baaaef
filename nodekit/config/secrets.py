"""Secrets: given by reference, never shown."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from nodekit.config.file_limits import read_bytes
from nodekit.config.paths import resolved_path
from nodekit.config.variables import FromEnvironment
from nodekit.errors import NodekitError

MAX_SECRET_BYTES = 1 << 16
REFERENCES = '{ env = "NAME" }, { file = "path" } or "${NAME}"'
"""The forms of a reference."""


class Secret:
    """A text that no repr, log line or error shows. In a node file: ``{env = "NAME"}``, ``{file = "path"}`` or
    ``"${NAME}"``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    @classmethod
    def resolve(cls, reference: Any, folder: Path) -> Self:
        """Follow a reference from a node file in `folder`. Raise `NodekitError` with the cure if it leads nowhere."""
        match reference:
            case FromEnvironment():
                return cls(str(reference))
            case Secret():  # from Python, or read from a file of another format
                return cls(reference.reveal())
            case {"env": str(name), **rest} if not rest:
                if (text := os.environ.get(name)) is None:
                    raise NodekitError(f"environment variable {name} is not set; set it to the secret")
                return cls(text)
            case {"file": str(path), **rest} if not rest:
                return cls(_read(_place(path, folder)))
            case _:
                raise NodekitError(f"a secret is given by reference: {REFERENCES}")


def _place(path: str, folder: Path) -> Path:
    try:
        return resolved_path(path, folder)
    except ValueError as error:
        raise NodekitError(f"cannot read the secret: {error}") from error


def _read(path: Path) -> str:
    """Return the text of a secret's file. An error names the file, and shows nothing of it."""
    try:
        data = read_bytes(path, MAX_SECRET_BYTES)
    except OSError as error:
        raise NodekitError(
            f"cannot read the secret: {path}: {error.strerror or error}; correct the path, or who may read the file"
        ) from error
    except ValueError as error:  # the path has a NUL
        raise NodekitError(f"cannot read the secret: {error}") from error
    if len(data) > MAX_SECRET_BYTES:
        raise NodekitError(
            f"cannot read the secret: {path} is larger than {MAX_SECRET_BYTES} bytes; is it the right file?"
        )
    try:
        return data.decode().strip()
    except UnicodeDecodeError as error:
        raise NodekitError(f"cannot read the secret: {path} is not UTF-8; write it anew as text") from error


if TYPE_CHECKING:
    EnvValue: TypeAlias = str | Secret
    """Value of a container's environment variable: a plain text or, in a node file, a reference to a secret."""
else:

    class EnvValue(Secret):  # msgspec takes a type it does not know only on its own, not in `str | Secret`
        __slots__ = ()

        @classmethod
        def resolve(cls, reference: Any, folder: Path) -> Self:
            if isinstance(reference, str):
                return cls(reference)
            if not isinstance(reference, dict | Secret):
                raise NodekitError(f"expected a text, or a reference: {REFERENCES}")
            return super().resolve(reference, folder)
