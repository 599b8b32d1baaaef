"""Commands of the test bed.

python tests/engine install           what all tests need of the system, as root on Debian: its needs, and servers
python tests/engine run -- COMMAND…   with DOCKER_HOST naming an engine, which is brought up where none is found,
                                      and NODEKIT_PYTHON_IMAGE an image with Python, made offline
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder is the package

from engine.bed import NoEngine, open_engine, prepare  # noqa: E402
from engine.debian import Missing, need  # noqa: E402


def run(command: list[str]) -> int:
    with open_engine() as engine:
        given = {"DOCKER_HOST": engine.host, "NODEKIT_PYTHON_IMAGE": engine.images.python}
        with subprocess.Popen(command, env={**os.environ, **given}) as process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal the command has it too, and cleans up
            signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
            return process.wait()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["install"]:
            prepare()
            need("nginx", "caddy", "openssl")  # for tests/deploy
            need("initdb", "pgbouncer", "redis-server", "haproxy", "cc")  # for stores of several nodes
            need("npm")  # for contrib/nodekit-chain: a local chain, and a compiler
            return 0
        case ["run", "--", *command] if command:
            return run(command)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (NoEngine, Missing) as error:
        sys.exit(str(error))
