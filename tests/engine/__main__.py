"""Runs a command beside an engine, brought up for it where none is found: python tests/engine run -- COMMAND…"""

import os
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder is the package

from engine.bed import NoEngine, open_engine  # noqa: E402


def main(arguments: list[str]) -> int:
    if arguments[:2] != ["run", "--"] or not arguments[2:]:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open_engine() as engine:
            given = {"DOCKER_HOST": engine.host, "NODEKIT_PYTHON_IMAGE": engine.images.python}
            return subprocess.run(arguments[2:], env={**os.environ, **given}, check=False).returncode
    except NoEngine as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
