"""What `nodekit doctor` tells."""

from typing import Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["ok", "note", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """Something about the machine or what is installed on it, for a newcomer to read.

    An error keeps nodes from running, or will; a warning is likely to be in the way of some; a note is good to know.
    """

    level: Level
    subject: str
    """What was looked at, in a word or two."""
    text: str
    cure: str = ""
    """What to do, in the imperative."""
