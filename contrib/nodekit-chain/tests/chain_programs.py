"""Programs of the tests: a local chain (anvil) and a compiler (solc), both from npm, and the compiled contracts.

They are installed and compiled once for all test runs of this user, again when the lock or a source changes.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).parent
CONTRACTS = HERE / "contracts"
CACHE = Path(tempfile.gettempdir()) / f"nodekit-chain-tests-{os.geteuid()}"

Compiled: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By name of a contract: its `abi`, and its `bytecode` in hexadecimal digits."""


class NoChain(Exception):
    """The programs are not there, and cannot be installed. The message says what to do."""


def anvil() -> Path:
    """Return the program `anvil`: that of the variable NODEKIT_ANVIL, or npm's."""
    if given := os.environ.get("NODEKIT_ANVIL"):
        return Path(given)
    packages = (installed() / "node_modules" / "@foundry-rs").glob("anvil-*/bin/anvil*")
    if found := next(packages, None):
        return found
    raise NoChain("anvil: npm has no build for this platform; install it from source, and name it in NODEKIT_ANVIL")


@cache
def compiled() -> Compiled:
    """Return the contracts of the folder `contracts`."""
    sources = [HERE / "compile.js", HERE / "package-lock.json", *sorted(CONTRACTS.glob("*.sol"))]
    with made("contracts", sources, _compile) as folder:
        result: Compiled = json.loads((folder / "contracts.json").read_text())
    return result


def _compile(folder: Path) -> None:
    text = run("node", str(HERE / "compile.js"), str(CONTRACTS), cwd=installed())
    (folder / "contracts.json").write_text(text)


@cache
def installed() -> Path:
    """Return a folder with `node_modules`, as the lock has them."""
    with made("npm", [HERE / "package.json", HERE / "package-lock.json"], _install) as folder:
        return folder


def _install(folder: Path) -> None:
    if not shutil.which("npm"):
        raise NoChain("npm: not found; install it: apt-get install nodejs npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)  # a script would only look for anvil


@contextmanager
def made(name: str, sources: list[Path], make: Callable[[Path], None]) -> Iterator[Path]:
    """Give the folder that `make` has filled from these sources, now or in an earlier run."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = CACHE / f"{name}-{digest}"
    CACHE.mkdir(mode=0o700, exist_ok=True)
    if CACHE.is_symlink() or CACHE.stat().st_uid != os.geteuid():
        raise NoChain(f"{CACHE} is somebody else's; remove it")
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run at the same time wait for the one that installs
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as place:
                (filling := Path(place) / "filling").mkdir()
                make(filling)
                filling.rename(folder)
    yield folder


def run(*command: str, cwd: Path) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NoChain(f"{command[0]}: not found; install it: apt-get install nodejs npm") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise NoChain(f"`{' '.join(command)}` failed: {said}")
    return done.stdout
