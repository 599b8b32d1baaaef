"""The engine as a process: ``python -m nodekit.testing.shared_store --file PATH``."""

import argparse
import logging
from functools import partial
from pathlib import Path

import anyio

from nodekit.testing.shared_store.server import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m nodekit.testing.shared_store")
    parser.add_argument("--file", type=Path, required=True, help="SQLite file of the jobs; created if it is missing")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0: choose a free one")
    parser.add_argument("--lease-seconds", type=float, default=1.0, help="time after which a silent node is dead")
    parser.add_argument("--read-only", action="store_true", help="refuse to write jobs until SIGUSR2")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    ready = partial(print, flush=True)
    anyio.run(partial(run, given.file, given.port, given.lease_seconds, read_only=given.read_only, ready=ready))


if __name__ == "__main__":
    main()
