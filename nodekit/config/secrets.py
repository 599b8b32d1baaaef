"""Secrets: given by reference, never shown."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from nodekit.errors import NodekitError


class Secret:
    """A text that no repr, log line or error shows. In a node file: ``{env = "NAME"}`` or ``{file = "path"}``."""

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
            case Secret():  # from Python, or read from a file of another format
                return cls(reference.reveal())
            case {"env": str(name), **rest} if not rest:
                if (text := os.environ.get(name)) is None:
                    raise NodekitError(f"environment variable {name} is not set")
                return cls(text)
            case {"file": str(path), **rest} if not rest:
                try:
                    return cls((folder / path).read_text(encoding="utf-8").strip())
                except (OSError, UnicodeDecodeError) as error:
                    raise NodekitError(f"cannot read the secret: {error}") from error
            case _:
                raise NodekitError('a secret is given by reference: { env = "NAME" } or { file = "path" }')


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
                raise NodekitError('expected a text, or a reference: { env = "NAME" } or { file = "path" }')
            return super().resolve(reference, folder)
