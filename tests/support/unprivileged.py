"""Commands of a user who may not do everything, although the tests may run as root."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

STRANGER = 65534

possible = os.geteuid() == 0 and shutil.which("setpriv") is not None
"""True if `without_rights` has an effect: root gives up its right to pass over modes of files."""


def without_rights(command: Sequence[str]) -> Sequence[str]:
    """Return a command that runs without root's rights to files of others."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]


def give_away(folder: Path, mode: int) -> Path:
    """Make a folder of somebody else with a mode for others."""
    folder.mkdir(parents=True)
    os.chown(folder, STRANGER, STRANGER)
    folder.chmod(mode)
    return folder
