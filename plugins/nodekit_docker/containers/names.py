"""How containers are named, for people; and by which, with their labels, a node knows its own."""

import re
import secrets

_DIGITS = 6


def name_of(node: str, entry: str) -> str:
    """Of an entry's container, and of its network, unless it is said."""
    return f"nodekit-{node}-{entry}"


def another_name(name: str) -> str:
    """Where somebody else has the name, or where there are several."""
    return f"{name}-{secrets.token_hex(_DIGITS // 2)}"


def is_named(name: str, node: str, entry: str, said: str = "") -> bool:
    """Whether it is the name that was said when it was made or, where none was, one of the first two."""
    if said:
        return name == said
    return re.fullmatch(rf"{re.escape(name_of(node, entry))}(-[0-9a-f]{{{_DIGITS}}})?", name) is not None
