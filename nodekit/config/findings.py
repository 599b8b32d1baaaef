"""Findings of `nodekit doctor`, and what its checks get of a node file."""

from typing import Any, Literal, Self, TypeAlias

import msgspec

from nodekit.config.providers import Kind, NodeFile

Level: TypeAlias = Literal["ok", "note", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """A finding about the machine or the installed packages, written for a newcomer.

    An error keeps nodes from running, or will. A warning is likely to affect some of them. A note is good to know.

    - `subject`: Subject of the check, in a word or two.
    - `cure`: Cure, in the imperative.
    """

    level: Level
    subject: str
    text: str
    cure: str = ""

    @classmethod
    def from_text(cls, level: Level, subject: str, text: str) -> Self:
        """Return the finding for the text of an error: what follows its first semicolon is the cure."""
        fault, _, cure = text.partition("; ")
        return cls(level, subject, fault, cure)


class Configured(msgspec.Struct, frozen=True):
    """The settings of one component of a node file.

    - `use`: Name of its provider.
    - `where`: Key path of its table.
    - `config`: The Struct of its settings; that of a runner has its containers.
    """

    kind: Kind
    use: str
    where: str
    config: Any


class ExaminedFile(msgspec.Struct, frozen=True):
    """A node file, as checks of `nodekit doctor` get it. It need not compose.

    - `file`: The file and the name of its node.
    - `components`: The components whose settings are valid.
    """

    file: NodeFile
    components: tuple[Configured, ...]

    def of(self, kind: Kind, use: str) -> tuple[Configured, ...]:
        """Return the components of a kind that a provider makes."""
        return tuple(one for one in self.components if (one.kind, one.use) == (kind, use))
