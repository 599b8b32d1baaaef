"""How containers are named, for people; and by which, with their labels, a node knows its own."""

import re
import secrets

_DIGITS = 6


def name_of(node: str, entry: str) -> str:
    """Of an entry's container."""
    return f"nodekit-{node}-{entry}"


def another_name(name: str) -> str:
    """Where somebody else has the name."""
    return f"{name}-{secrets.token_hex(_DIGITS // 2)}"


def is_named(name: str, node: str, entry: str) -> bool:
    """Whether it is one of the two."""
    return re.fullmatch(rf"{re.escape(name_of(node, entry))}(-[0-9a-f]{{{_DIGITS}}})?", name) is not None
