"""The packages that `nodekit new` writes: real ones, named `acme`, in the folder `templates`.

They are checked where they are; a name of your own then takes the place of theirs.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.resources import files as resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

KINDS = ("store", "runner", "pipeline", "guard", "observer", "transport")
SHARED = "common"
"""What is the same for all kinds."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MOST_LETTERS = 40
_PLACEHOLDER = re.compile(r"_acme|Acme|acme")
_MADE = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")
"""Folders that tools make; an installer compiles what it installs."""


class Naming(NamedTuple):
    """A plugin's name, and what else is named after it."""

    name: str

    @property
    def valid(self) -> bool:
        return len(self.name) <= _MOST_LETTERS and _NAME.fullmatch(self.name) is not None

    @property
    def nearest(self) -> str:
        """A valid name like this one."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-0123456789")[:_MOST_LETTERS].strip("-")
        return words or "my-plugin"

    @property
    def distribution(self) -> str:
        return f"nodekit-{self.name}"

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def package(self) -> str:
        return f"nodekit_{self.module}"

    @property
    def prefix(self) -> str:
        """What names of classes begin with."""
        return "".join(word[0].upper() + word[1:] for word in self.name.split("-"))

    def put_into(self, text: str) -> str:
        """The text of a template, or a path, with this name for the placeholder."""
        forms = {"_acme": f"_{self.module}", "Acme": self.prefix, "acme": self.name}
        return _PLACEHOLDER.sub(lambda found: forms[found[0]], text)


def files(kind: str, naming: Naming) -> Mapping[PurePosixPath, str]:
    """The files of a package of that kind and name, by their paths in it."""
    root = resources("nodekit.cli.new") / "templates"
    found = (entry for part in (SHARED, kind) for entry in _files_in(root / part, PurePosixPath()))
    return {PurePosixPath(naming.put_into(str(path))): naming.put_into(text) for path, text in found}


def _files_in(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in _MADE:
            yield from _files_in(entry, path / entry.name)
        elif entry.is_file():
            yield path / entry.name, entry.read_text(encoding="utf-8")


def write(texts: Mapping[PurePosixPath, str], target: Path) -> None:
    """Write them all, or nothing: the folder gets its name when it is complete."""
    made = Path(tempfile.mkdtemp(prefix=".nodekit-new-", dir=target.parent))
    try:
        for path, text in texts.items():
            file = made / target.name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        (made / target.name).rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
