"""A node in a process of its own, under a witness that sees everything that outlives it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from components import until
from served import NODEKIT, Served
from shapes import children

WITNESS = Path(__file__).with_name("witness.py")
PATIENCE_SECONDS = 30
LEFT = 99


class Witnessed(Served):
    """The process of a node. Its end is the end of everything that it has started."""

    @property
    def node(self) -> int:
        """The pid of the node."""
        found = re.search(r"^runs (\d+)$", self.out, re.MULTILINE)
        assert found
        return int(found[1])

    @property
    def seconds(self) -> float:
        """The time from the end of the node to the end of everything."""
        found = re.search(r"^all ended after (\S+)$", self.out, re.MULTILINE)
        assert found
        return float(found[1])

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.node, number)

    def supervision(self) -> set[int]:
        """Return the fork server and the supervisors."""
        servers = list(children(self.node))
        return {*servers, *(pid for server in servers for pid in children(server))}

    async def nothing_is_left(self) -> int:
        """Wait for the end of the node and of everything that it has started; return the node's exit code."""
        code = await self.ended()
        assert code != LEFT, "something has outlived the node"
        return code


@asynccontextmanager
async def witnessed(file: Path, *, is_up: bool = True) -> AsyncIterator[Witnessed]:
    """Run `nodekit serve` under a witness; yield it once it listens, or at once. Everything ends with the context."""
    number = len(list(file.parent.glob("witness-*.log")))
    out, log = file.parent / f"witness-{number}.out", file.parent / f"witness-{number}.log"
    command = [sys.executable, str(WITNESS), str(PATIENCE_SECONDS), *NODEKIT, "serve", str(file)]
    with out.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
    served = Witnessed(process, out, log)
    try:
        await until(lambda: "runs " in served.out and (served.url or not is_up or process.poll() is not None))
        assert process.poll() is None, served.log
        yield served
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                served.signal(signal.SIGKILL)
        process.wait(2 * PATIENCE_SECONDS)
