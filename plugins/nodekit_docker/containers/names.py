"""Names of containers, for people to read. By names and labels, a node also recognises its own containers."""

import re
import secrets

_DIGITS = 6


def name_of(node: str, entry: str) -> str:
    """Return the name of an entry's container and of its network, for an entry that does not set one."""
    return f"nodekit-{node}-{entry}"


def another_name(name: str) -> str:
    """Return the name with a random end, for a name that is taken or needed several times."""
    return f"{name}-{secrets.token_hex(_DIGITS // 2)}"


def is_named(name: str, node: str, entry: str, said: str = "") -> bool:
    """Return True if the name is the one that the entry set (`said`), or else one that the functions above make."""
    if said:
        return name == said
    return re.fullmatch(rf"{re.escape(name_of(node, entry))}(-[0-9a-f]{{{_DIGITS}}})?", name) is not None
