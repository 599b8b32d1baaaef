"""Names of containers, for people to read."""

import secrets

_DIGITS = 6


def name_of(node: str, entry: str) -> str:
    """Return the name of an entry's container and of its network, for an entry that does not set one."""
    return f"nodekit-{node}-{entry}"


def another_name(name: str) -> str:
    """Return the name with a random end, for a name that is taken or needed several times."""
    return f"{name}-{secrets.token_hex(_DIGITS // 2)}"
