"""The packages that `nodekit new` writes. In the folder `templates`, they are real packages named `acme`.

They are checked there as they are. A package that is written has the user's name in place of `acme`.
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
"""The folder with the files that all kinds have in common."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MOST_LETTERS = 40
_PLACEHOLDER = re.compile(r"_acme|Acme|acme")
_MADE = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")
"""Folders that tools make, and that are not copied: an installer compiles the templates, too."""


class Naming(NamedTuple):
    """A plugin's name, and the names derived from it."""

    name: str

    @property
    def valid(self) -> bool:
        return len(self.name) <= _MOST_LETTERS and _NAME.fullmatch(self.name) is not None

    @property
    def nearest(self) -> str:
        """A valid name that is similar."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-0123456789")[:_MOST_LETTERS].strip("-")
        return name or "my-plugin"

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
        """The prefix of the names of classes."""
        return "".join(piece[0].upper() + piece[1:] for piece in self.name.split("-"))

    def put_into(self, text: str) -> str:
        """Replace the placeholder by this name, in the text of a template or in a path."""
        forms = {"_acme": f"_{self.module}", "Acme": self.prefix, "acme": self.name}
        return _PLACEHOLDER.sub(lambda found: forms[found[0]], text)


def files(kind: str, naming: Naming) -> Mapping[PurePosixPath, str]:
    """Return the texts of the files of a package of that kind and name, by their paths in it."""
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
    """Write all files or none: the folder gets its name only when it is complete."""
    made = Path(tempfile.mkdtemp(prefix=".nodekit-new-", dir=target.parent))
    try:
        for path, text in texts.items():
            file = made / target.name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        (made / target.name).rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
