"""Findings of `nodekit doctor`."""

from typing import Literal, TypeAlias

import msgspec

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
