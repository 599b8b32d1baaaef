"""Containers of the soak that are functions in the node's own process.

SOAK_PLANT plants faults there: `memory` is kept, `descriptors` stay open, `tasks` are left.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

PLANTS = os.environ.get("SOAK_PLANT", "").split(",")

MOST_KEPT = 10_000
"""Number of things that are kept at most: memory is, until there are so many, so that it grows to the end of a test."""

_kept: list[object] = []


async def local(data: Mapping[str, Any]) -> dict[str, Any]:
    if "memory" in PLANTS and len(_kept) < MOST_KEPT:
        _kept.append((bytearray(b"x") * 200_000, [[number] for number in range(2_000)]))
    if "descriptors" in PLANTS:
        _kept.append(os.open("/dev/null", os.O_RDONLY))
    if "tasks" in PLANTS:
        _kept.append(asyncio.create_task(asyncio.sleep(1e6)))
    return {"n": data["n"] + 1, "pad": data.get("pad", "")}


async def probe(data: object) -> dict[str, int]:
    """Return what only the process itself knows: its tasks, and the blocks of memory that Python has allocated."""
    return {"tasks": len(asyncio.all_tasks()), "blocks": sys.getallocatedblocks()}
