"""A trial of what users install: wheels alone, in a new environment, from a folder outside the checkout.

`make packages` runs it. It builds wheels of nodekit, of the packages in `contrib` and of examples that are packages,
and installs them with the dependencies that they declare, in the versions and with the hashes of the lock. Then it runs
the demo and the tests of all packages, but for suites on a server. It builds, installs, tests and certifies each kind
of package that `nodekit new` writes. Nothing may come from the checkout.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeAlias
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent.parent
SHELVES = ("contrib", "examples")
KINDS = ("store", "runner", "pipeline", "guard", "observer", "transport")
AT_ONCE = 2
SECONDS = 900
LOADED = "loaded.py"
TEMPLATES = "nodekit/cli/new/templates"
SUITES = ("test_contract.py", "test_faults.py", "test_model.py", "test_kills.py")
"""Tests that take minutes if they need a server or a program of their own. `make test` runs them."""
_LEFT = ("__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache")


Check: TypeAlias = tuple[str, Callable[[], str]]


class Failed(Exception):
    """A failed check; the text is for the reader of the report."""


class Bench:
    """A folder and an environment that contains the installed packages, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self._locked = folder / "locked"
        venv.create(folder / "environment", with_pip=False, symlinks=True)
        self._python = folder / "environment" / "bin" / "python"
        self.work = folder / "work"
        self.work.mkdir()

    def fetch(self) -> None:
        """Download everything that is locked, by hash; nothing else is installed."""
        self._pip("download", "--no-deps", "--require-hashes", "-r", ROOT / "requirements.lock", "-d", self._locked)

    def build(self, projects: Iterable[Path]) -> list[Path]:
        """Build wheels with the build backend that is installed beside pip."""
        before = set(self.wheels.glob("*.whl"))
        self._pip("wheel", "--no-deps", "--no-build-isolation", "-w", self.wheels, *projects)
        return sorted(set(self.wheels.glob("*.whl")) - before)

    def install(self, wheels: Iterable[Path], extra: str = "") -> None:
        found = ("--no-index", "--find-links", self.wheels, "--find-links", self._locked)
        self._pip("--python", self._python, "install", *found, *(f"{wheel}{extra}" for wheel in wheels))

    def _pip(self, *arguments: object) -> None:
        self._run(
            [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", *map(str, arguments)], self.folder
        )

    def run(self, *command: object, folder: Path | None = None, **more: str) -> str:
        """Run a program of the environment; return its output. Raise Failed with all of it otherwise."""
        name, *arguments = map(str, command)
        return self._run([str(self._python.parent / name), *arguments], folder or self.work, **more)

    def typed(self, lines: Iterable[str], programs: Path, folder: Path) -> None:
        """Run lines of a shell one after the other, with these programs; the first failure ends it."""
        script = "set -euxo pipefail\nexport PIP_DISABLE_PIP_VERSION_CHECK=1\n" + "\n".join(lines)
        self._run(["bash", "-c", script], folder, PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")

    def _run(self, command: Sequence[str], folder: Path, **more: str) -> str:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        path = f"{self._python.parent}{os.pathsep}{inherited['PATH']}"
        environment = {**inherited, "PATH": path, "PYTHONNOUSERSITE": "1", **more}
        done = subprocess.run(
            command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
        if done.returncode:
            raise Failed(f"$ {' '.join(command)}  (exit code {done.returncode})\n{done.stdout}{done.stderr}")
        return done.stdout


def main() -> int:
    began = time.monotonic()
    packages = [file.parent for shelf in SHELVES for file in sorted((ROOT / shelf).glob("*/pyproject.toml"))]
    with tempfile.TemporaryDirectory(prefix="nodekit-packages-") as temporary:
        bench = Bench(Path(temporary))
        good = (
            told("wheels", lambda: built(bench, [ROOT, *packages]))
            and told("installed", lambda: installed(bench))
            and told("nodekit new", lambda: new(bench))
            and all_reported(checks(bench, packages))
        )
    print(f"{'all of it holds' if good else 'not all of it holds'} ({time.monotonic() - began:.0f} s)")
    return 0 if good else 1


def checks(bench: Bench, packages: Iterable[Path]) -> Iterator[Check]:
    """Yield the checks of the installed packages; they do not depend on one another."""
    yield "demo", lambda: bench.run("nodekit", "demo").splitlines()[-1]
    yield "nothing else is loaded", lambda: only_installed(bench)
    yield "README", lambda: as_a_newcomer(bench)
    for kind in KINDS:
        yield f"new {kind}", partial(tried, bench, bench.work / f"nodekit-new-{kind}")
    for package in packages:
        yield str(package.relative_to(ROOT)), partial(tested, bench, package)


def all_reported(checks: Iterable[Check]) -> bool:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return all([*pool.map(lambda check: told(*check), checks)])


def told(name: str, step: Callable[[], str]) -> bool:
    """Run a step, and print a line with its result."""
    began = time.monotonic()
    try:
        result, good = step(), True
    except (Failed, subprocess.TimeoutExpired) as error:
        result, good = str(error), False
    print(f"{'ok' if good else 'FAILED':6} {name:22} {result}  ({time.monotonic() - began:.0f} s)", flush=True)
    return good


def built(bench: Bench, projects: Sequence[Path]) -> str:
    """Build a wheel of each project; check that nodekit's has all templates, files with a leading dot too."""
    bench.fetch()
    wheels = bench.build(projects)
    core = next(wheel for wheel in wheels if wheel.name.startswith("nodekit_compute-"))
    files = (file for file in (ROOT / TEMPLATES).rglob("*") if file.is_file() and not {*_LEFT} & {*file.parts})
    if missing := {str(file.relative_to(ROOT)) for file in files} - {*ZipFile(core).namelist()}:
        raise Failed(f"{core.name} lacks {', '.join(sorted(missing))}")
    return ", ".join(wheel.name.removesuffix("-py3-none-any.whl") for wheel in wheels)


def installed(bench: Bench) -> str:
    """Install the wheels with the dependencies they declare; load each provider, command and format."""
    bench.install(bench.wheels.glob("*.whl"))
    shutil.copy(Path(__file__).with_name(LOADED), bench.folder)
    return bench.run("python", bench.folder / LOADED, bench.folder, ROOT).strip()


def new(bench: Bench) -> str:
    """Write each kind of package with the installed command; build and install it with its tests' requirements."""
    for kind in KINDS:
        bench.run("nodekit", "new", kind, f"new-{kind}")
    known = [*bench.wheels.glob("*.whl")]
    wheels = bench.build(bench.work.glob("nodekit-new-*"))
    bench.install([*wheels, *(wheel for wheel in known if not wheel.name.startswith("nodekit_compute-"))], "[test]")
    for project in bench.work.glob("nodekit-new-*"):
        without_packages(project)
    return f"{len(wheels)} packages written, built and installed"


def only_installed(bench: Bench) -> str:
    """Check that nothing of the checkout is loaded, and that this check can fail."""
    check = (bench.folder / LOADED, bench.folder, ROOT)
    loaded = bench.run("python", *check, "nodekit.testing").strip()
    try:
        bench.run("python", *check, PYTHONPATH=str(ROOT))
    except Failed:
        return loaded
    raise Failed(f"nodekit of the checkout was loaded, and {LOADED} did not notice it")


def as_a_newcomer(bench: Bench) -> str:
    """Type the README's lines about extending nodes, one by one, where only the wheel is installed."""
    home = bench.folder / "newcomer"
    venv.create(home / "environment", with_pip=True, symlinks=True)
    programs = home / "environment" / "bin"
    (wheel,) = bench.wheels.glob("nodekit_compute-*.whl")
    *lines, serve = lines_of_the_readme("## Extend nodes")
    if not serve.startswith("nodekit serve "):
        raise Failed(f"the last line serves no node: {serve}")
    # serve in the background at a free port, and stop once it listens
    served = f"{serve.partition(' #')[0]} --bind 127.0.0.1:0 > served & node=$!"
    until = "until grep -q '^listening on' served || ! kill -0 $node; do sleep 0.1; done"
    bench.typed([f"pip install {wheel}", *lines, served, until, "kill -TERM $node", "wait $node"], programs, home)
    return f"{len(lines) + 1} lines"


def lines_of_the_readme(heading: str) -> list[str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"{heading}\n")[2]
    block = section.partition("```console\n")[2].partition("```")[0]
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def tried(bench: Bench, project: Path) -> str:
    """Check a package that `nodekit new` wrote: its tests, its node file, its certificate."""
    passed = tests_of(bench, project)
    bench.run("nodekit", "check", "node.toml", folder=project)
    bench.run("nodekit", "certify", project.name, "tests", folder=project)
    return f"{passed}; its node file composes; certified"


def tested(bench: Bench, project: Path) -> str:
    """Run the tests of a distribution in a copy without its package, so that the installed one is tested."""
    copy = bench.work / project.name
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(*_LEFT))
    without_packages(copy)
    if [*copy.rglob("*_server.py"), *copy.rglob("*_programs.py")]:
        for name in SUITES:
            (copy / "tests" / name).unlink(missing_ok=True)
    return tests_of(bench, copy) if [*copy.rglob("test_*.py")] else "installed; it has no tests of its own"


def tests_of(bench: Bench, project: Path) -> str:
    printed = bench.run("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", project, folder=project)
    return printed.strip().splitlines()[-1]


def without_packages(project: Path) -> None:
    for found in project.glob("nodekit_*"):
        shutil.rmtree(found) if found.is_dir() else found.unlink()


sys.exit(main())
