"""System requirements of the bed: programs, and the Debian packages that have them."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

PACKAGES = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "docker-registry": "docker-registry",
    "nginx": "nginx",
    "caddy": "caddy",
    "openssl": "openssl",
    "initdb": "postgresql",
    "pgbouncer": "pgbouncer",
    "haproxy": "haproxy",
    "redis-server": "redis-server",
    "npm": "nodejs npm",
    "cc": "gcc libc6-dev",
}
PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
_VERSIONS = Path("/usr/lib/postgresql")
"""Debian's folder of the versions of PostgreSQL, with their programs."""


class Missing(Exception):
    """A program is not installed, and cannot be installed from here."""


def program(name: str) -> str | None:
    return shutil.which(name, path=":".join([PATH, *map(str, _VERSIONS.glob("*/bin"))]))


def need(*names: str) -> None:
    """Make sure that these programs exist; as root, apt-get installs them. Raise Missing with what to do."""
    missing = [name for name in names if not program(name)]
    if not missing:
        return
    packages = " ".join(PACKAGES[name] for name in missing)
    cure = f"install them, as root: apt-get update && apt-get install -y --no-install-recommends {packages}"
    if os.geteuid() != 0 or not program("apt-get"):
        raise Missing(f"{', '.join(missing)}: not found; {cure}")
    problem = _install(packages)
    if problem or not all(program(name) for name in missing):
        raise Missing(f"{', '.join(missing)}: not found, and apt-get could not help ({problem}); {cure}")


@cache  # per process: what failed once is not tried again by every test
def _install(packages: str) -> str:
    # without services: in a container without systemd, RUNLEVEL keeps the packages' scripts from starting them
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in ("update", f"install -y --no-install-recommends {packages}"):
        arguments = ["apt-get", "-qq", "-o", "Acquire::Retries=5", *command.split()]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr or done.stdout).strip()[-500:]
    return ""
