"""Sizes in bytes as people write them, and the memory that this process may use."""

import os
import re
import resource
from pathlib import Path

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18})(\.[0-9]{1,3})? ?(B|KiB|MiB|GiB|TiB)?")
_CGROUPS = Path("/sys/fs/cgroup")


def parse_bytes(name: str, value: int | str) -> int:
    """Return a size as a number of bytes. Raise `ValueError`, which names the setting, for anything else."""
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is not None:
        return int(float(found[1] + (found[2] or "")) * _UNITS[found[3] or ""])
    if isinstance(value, str | bool) or value < 0:
        raise ValueError(
            f'{name}: expected a number of bytes, or a text such as "512MiB" or "2GiB", got {value!r:.100}'
        )
    return value


def machine_memory() -> int:
    """Return the bytes of memory that this process may use: those of the machine, of its cgroup, or of its limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits()]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def _cgroup_limits() -> list[int]:
    """Return the limits of the cgroups of this process, of both versions, that can be read."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        groups = []
    files = [_CGROUPS / "memory.max", _CGROUPS / "memory" / "memory.limit_in_bytes"]
    for _, controllers, path in groups:
        place = path.lstrip("/")
        if not controllers:
            files += [folder / "memory.max" for folder in _upwards(_CGROUPS / place)]
        elif "memory" in controllers.split(","):
            files += [folder / "memory.limit_in_bytes" for folder in _upwards(_CGROUPS / "memory" / place)]
    return [limit for file in files if (limit := _read(file)) is not None]


def _upwards(folder: Path) -> list[Path]:
    return [one for one in (folder, *folder.parents) if one.is_relative_to(_CGROUPS)]


def _read(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else None
