"""Releases of the checkout: wheels in an environment of their own, as a machine has them that runs a node."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

from paths import ROOT

NEXT = "0.1.99"
"""Version of the release that comes after the checkout."""
VERSION = "nodekit/model/version.py"
_LEFT = shutil.ignore_patterns("__pycache__", ".*", "tests", "*.egg-info")


def next_release(folder: Path, package: str) -> Path:
    """Install the release after the checkout: another version, and a store that brings its engine up to date.

    `package` is the folder of the store's distribution in `contrib`. Return the Python of the environment.
    """
    sources = [folder / "next", folder / "next" / "contrib" / package]
    for source, original in zip(sources, [ROOT, ROOT / "contrib" / package], strict=True):
        source.mkdir(parents=True, exist_ok=True)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(original / name, source)
    for name in ("nodekit", "plugins"):
        shutil.copytree(ROOT / name, sources[0] / name, ignore=_LEFT)
    inside = package.replace("-", "_")
    shutil.copytree(ROOT / "contrib" / package / inside, sources[1] / inside, ignore=_LEFT)
    (sources[0] / VERSION).write_text(f'__version__ = "{NEXT}"\n')
    if has_tables(package):
        _next_schema(sources[1] / inside)
    return installed(folder / "environment", built(folder / "wheels", *sources))


def has_tables(package: str) -> bool:
    """Return True if the engine of a store has tables, which a release may change."""
    return (ROOT / "contrib" / package / package.replace("-", "_") / "sql").is_dir()


def _next_schema(package: Path) -> None:
    """Give a store one more step of its tables. Nodes of the release before can use them."""
    (package / "sql" / "next.sql").write_text("ALTER TABLE nodekit.jobs ADD COLUMN next boolean;\n")
    with (package / "_schema.py").open("a") as file:
        file.write('\nMIGRATIONS = (*MIGRATIONS, ("next.sql",))\nVERSION = len(MIGRATIONS)\n')


def built(wheels: Path, *sources: Path) -> list[Path]:
    """Build wheels with the build backend that is installed beside pip."""
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", wheels, *sources]
    subprocess.run([*map(str, command), "--disable-pip-version-check"], check=True, capture_output=True)
    return sorted(wheels.glob("*.whl"))


def installed(folder: Path, wheels: list[Path]) -> Path:
    """Make an environment with these wheels and all that is installed here but this checkout; return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    here = Path(sysconfig.get_path("purelib"))
    [site] = folder.glob("lib/python*/site-packages")
    for entry in os.scandir(here):
        if "nodekit" not in entry.name:
            (site / entry.name).symlink_to(entry.path)
    for wheel in wheels:
        with ZipFile(wheel) as archive:
            archive.extractall(site)
    return python
