"""The migration of an Infernet node's ``config.json`` to a node file in TOML."""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from nodekit import CompositionError, Secret
from nodekit_infernet._checking import all_problems
from nodekit_infernet._draft import Reference
from nodekit_infernet._reading import read_config
from nodekit_infernet._translation import translated
from nodekit_infernet._writing import LONGEST_IN_FILE, text_of, write_new

FOLDER_MODE = 0o700
"""Mode of the folder of secrets: the operator's own."""


class Migration(msgspec.Struct, frozen=True):
    """A node file, and what the operator still has to do.

    - `files`: The contents of files with secrets, by their paths as the node file names them.
    - `references`: The secrets that are not in these files, and the environment variables that the node file names.
    - `copied`: Key paths of ``config.json`` whose values are in the node file, although a secret may be in them.
    """

    text: str
    files: Mapping[str, Secret]
    references: Sequence[Reference]
    copied: Sequence[str]


def migrated(path: Path, folder: str | None = None) -> Migration:
    """Translate a ``config.json``. Raise `CompositionError` if it is wrong, or a node would refuse what it gives.

    Raise `OSError` if there is no room to try that.

    Secrets become references: to files in `folder`, or to environment variables if it is None or a file would not give
    the same text.
    """
    draft = translated(read_config(path))
    if problems := all_problems(draft):
        raise CompositionError(problems)
    places = {where: _place(one, folder) for where, one in draft.references.items()}
    for where, one in draft.references.items():
        draft.comment(where, _comment(one, places[where]))
    by_variable = {one.variable: (one, places[where]) for where, one in sorted(draft.references.items())}
    found = [by_variable[variable] for variable in sorted(by_variable)]
    files = {place["file"]: one.secret for one, place in found if "file" in place}
    return Migration(
        text_of(draft.tables, draft, places), files, [one for one, place in found if "env" in place], draft.copied
    )


def write(migration: Migration, path: Path) -> None:
    """Write the node file and the files of its secrets, which only the owner may read. Nothing is overwritten.

    Raise `OSError`; then nothing is left of it.
    """
    if os.path.exists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    made: list[Path] = []
    try:
        for name, secret in migration.files.items():
            (path.parent / name).parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
            write_new(path.parent / name, secret.reveal())
            made.append(path.parent / name)
        write_new(path, migration.text)
    except OSError:
        for file in made:
            file.unlink(missing_ok=True)
        raise


def _place(one: Reference, folder: str | None) -> dict[str, str]:
    """Return the reference to a secret, as a node file has it. What is read from a file has no space around it."""
    text = one.secret.reveal()
    if folder is None or text != text.strip() or len(text.encode()) > LONGEST_IN_FILE:
        return {"env": one.variable}
    return {"file": f"{folder}/{one.variable}"}


def _comment(one: Reference, place: Mapping[str, str]) -> str:
    if "file" in place:
        return f"{one.origin}: in this file"
    return f"{one.origin}: set the environment variable {one.variable} to the old value, or name a file that holds it"
