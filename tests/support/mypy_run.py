"""mypy for tests: all runs share settings and a cache, so that nodekit and its imports are checked once."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from paths import ROOT

one_after_another = pytest.mark.xdist_group("mypy")
"""Marks tests that run mypy: the second finds what the first has cached."""

_SETTINGS = "[mypy]\nstrict = true\nfollow_untyped_imports = true\nexplicit_package_bases = true\n"
_OPTIONS = ("--no-error-summary", "--show-error-codes", "--hide-error-context")


def mypy(folder: Path, sources: Iterable[Path], roots: Iterable[Path]) -> str:
    """Run mypy on some files, imported from these roots; return its output. The folder is for its settings."""
    (folder / "mypy.ini").write_text(_SETTINGS)
    cache = ROOT / ".mypy_cache" / "tests"
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", f"--cache-dir={cache}", *_OPTIONS]
    env = {**os.environ, "MYPYPATH": os.pathsep.join(map(str, (*roots, ROOT, ROOT / "plugins")))}
    done = subprocess.run(
        [*command, *map(str, sources)], cwd=folder, env=env, capture_output=True, text=True, timeout=550, check=False
    )
    assert done.stderr == ""
    return done.stdout
