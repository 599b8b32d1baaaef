"""Small libraries in C that stand before the system's in the servers of tests."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from stores import unavailable


def preload(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, environment: Mapping[str, str]) -> None:
    """Build a library, and have servers that are started from now on load it.

    Without a compiler, the test is `unavailable`.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        unavailable("cc: not found; what stands before the system's functions is in C")
    text, library = folder / "before.c", folder / "before.so"
    text.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, text, "-ldl"], check=True)
    for name, value in {**environment, "LD_PRELOAD": str(library)}.items():
        monkeypatch.setenv(name, value)
