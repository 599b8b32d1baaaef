"""The process of `nodekit serve` among others."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from served import NODEKIT
from shapes import children

NODE_FILE = """
store = { use = "memory" }
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""

WITH_AN_ORPHAN = r"""
import os, sys
def orphan():
    if not os.fork():
        if not os.fork():
            os.execv("/bin/sleep", ["sleep", "0.1"])
        os._exit(0)
os.fork() or (orphan(), os._exit(0))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Process 1 becomes the node after it got a child and, later, a grandchild that are not the node's own."""

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child"]


def can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode
    )


def eventually(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(not can_unshare(), reason="there is no right to make a namespace of processes")
@pytest.mark.parametrize(
    ("signals", "code"), [((signal.SIGTERM,), 0), ((signal.SIGINT,), 0), ((signal.SIGUSR1,), 128 + signal.SIGUSR1)]
)
def test_a_node_that_is_process_1_reaps_orphans_and_ends_as_the_node_does(
    tmp_path: Path, signals: tuple[signal.Signals, ...], code: int
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(NODE_FILE)
    command = [*UNSHARE, sys.executable, "-c", WITH_AN_ORPHAN, *NODEKIT[1:], "serve", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as unshare:
        try:
            assert unshare.stdout
            assert unshare.stdout.readline().startswith("listening on")
            [first] = children(unshare.pid)
            eventually(lambda: len(list(children(first))) == 1)  # the node
            for number in signals:
                os.kill(first, number)
            assert unshare.wait(60) == code
        finally:
            unshare.kill()  # and with it everything in its namespace
