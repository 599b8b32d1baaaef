"""The lock: one version and the hashes of everything that tests, checks and builds install."""

import re
from typing import NamedTuple

from paths import ROOT

LOCK = ROOT / "requirements.lock"


class Locked(NamedTuple):
    """The entry of a distribution in the lock."""

    version: str
    hashes: frozenset[str]
    """SHA-256 of its files."""


def locked() -> dict[str, Locked]:
    """Read the lock, by normalised names."""
    text = LOCK.read_text(encoding="utf-8")
    blocks = re.findall(r"^([a-z0-9-]+)==(\S+)((?:.*\\\n)*.*)", text, re.MULTILINE)
    return {
        name: Locked(version, frozenset(re.findall(r"--hash=sha256:(\w+)", rest))) for name, version, rest in blocks
    }
