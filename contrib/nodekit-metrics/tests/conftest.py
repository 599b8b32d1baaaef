"""Fixtures that find or unpack a real Prometheus."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

DEBIAN_PACKAGE = "prometheus"
CACHE = Path(tempfile.gettempdir()) / f"nodekit-metrics-{DEBIAN_PACKAGE}-{os.geteuid()}"


class NoPrometheus(Exception):
    """There is no Prometheus, and none can be downloaded. The message says what to do."""


@pytest.fixture
def anyio_backend() -> str:
    """Use asyncio, because the servers of the transport `asgi` need it. Tests of the plugin alone also use trio."""
    return "asyncio"


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """Return the installed program or, for root on Debian, the one from the package, unpacked but not installed.

    Without one, tests are skipped; with CI=true they fail.
    """
    try:
        return found("prometheus") or unpacked() / "usr" / "bin" / "prometheus"
    except NoPrometheus as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def promtool(prometheus: Path) -> Path:
    """Return the program `promtool`, which comes with Prometheus."""
    return found("promtool") or prometheus.with_name("promtool")


def found(program: str) -> Path | None:
    path = shutil.which(program)
    return Path(path) if path else None


def unpacked() -> Path:
    """Return the folder of the unpacked package. It is unpacked once for all test runs of this user."""
    if os.geteuid() != 0 or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NoPrometheus("prometheus: not found; install it (apt-get install prometheus), or run as root on Debian")
    CACHE.mkdir(mode=0o700, exist_ok=True)
    if CACHE.is_symlink() or CACHE.stat().st_uid != os.geteuid():
        raise NoPrometheus(f"{CACHE} is somebody else's; remove it")
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run at the same time wait for the one that unpacks
        folder = CACHE / "unpacked"
        if not folder.exists():
            unpack(folder)
    return folder


def unpack(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        place = Path(name)
        try:
            apt("download", DEBIAN_PACKAGE, cwd=place)
        except NoPrometheus:
            apt("update", cwd=place)
            apt("download", DEBIAN_PACKAGE, cwd=place)
        (package,) = place.glob("*.deb")
        run("dpkg-deb", "-x", str(package), str(place / "files"), cwd=place)
        (place / "files").rename(folder)


def apt(*arguments: str, cwd: Path) -> None:
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=5", *arguments, cwd=cwd)


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise NoPrometheus(f"prometheus: not found, and `{' '.join(command)}` could not help: {said}")
