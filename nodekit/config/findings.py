"""Findings of `nodekit doctor`."""

from typing import Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["ok", "note", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """A finding about the machine or the installed packages, written for a newcomer.

    An error keeps nodes from running, or will. A warning is likely to affect some of them. A note is good to know.
    """

    level: Level
    subject: str
    """Subject of the check, in a word or two."""
    text: str
    cure: str = ""
    """Cure, in the imperative."""
