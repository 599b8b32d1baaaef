"""Run a command until it ends or stdin closes: it does not outlive its parent, even if that is killed.

python leash.py COMMAND…
"""

import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def watch() -> None:
        os.read(0, 1)
        process.kill()

    signal.signal(signal.SIGTERM, lambda number, frame: process.kill())
    threading.Thread(target=watch, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
