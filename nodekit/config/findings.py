"""Findings of `nodekit doctor`."""

from typing import Any, Literal, TypeAlias

import msgspec

from nodekit.config.providers import Kind

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
