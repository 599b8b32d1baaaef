"""An attack on a freshly started node, and what became of the node."""

import asyncio
import tempfile
import time
from pathlib import Path

from siege.attacks import RUNNERS, Attack, Size
from siege.target import MEGABYTE, Target, target

SLACK_BYTES = 200 * MEGABYTE
LOG_BYTES_PER_SECOND = 128 * 1024
"""Most that an attack may have the node log, beside the first few seconds' worth."""


class Outcome:
    """Effect of an attack on a node."""

    def __init__(self, attack: Attack, server: str) -> None:
        self.name, self.server = attack.__name__.replace("_", " "), server
        self.died = False
        self.before = self.peak = self.after = self.logged = 0
        self.p99 = self.longest = self.of_another = self.recovery = 0.0
        self.problem = ""

    @property
    def row(self) -> str:
        cells = [
            self.name,
            self.server,
            f"{self.peak / MEGABYTE:.0f} MB",
            f"{self.p99 * 1000:.0f} ms",
            f"{self.longest * 1000:.0f} ms",
            f"{self.of_another:.1f} s",
            f"{self.recovery:.0f} s ({self.after / MEGABYTE:.0f} MB)",
            f"{self.logged / 1024:.0f} kB",
            self.problem,
        ]
        return f"| {' | '.join(cells)} |"


HEAD = """| attack | server | memory, peak | `/health`, p99 | longest | job of another | memory back after | log | |
|---|---|---|---|---|---|---|---|---|"""


async def run(attack: Attack, server: str, size: Size, *, recovery_seconds: float = 60) -> Outcome:
    outcome = Outcome(attack, server)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with target(folder, server, runners=RUNNERS.get(attack, "")) as node:
            began = time.monotonic()
            outcome.before = node.served.resident_bytes
            try:
                await _attack(node, attack, size, outcome, recovery_seconds)
            except Exception as error:
                outcome.problem = f"{type(error).__name__}: {error}"[:200]
            if node.served.process.poll() is not None:
                outcome.problem = f"the node died with {node.served.process.returncode}"
            outcome.logged = len(node.served.log.encode())
            if outcome.logged > LOG_BYTES_PER_SECOND * (time.monotonic() - began + 10):
                outcome.problem += f" {outcome.logged} bytes of log"
            if "Traceback" in node.served.log:
                outcome.problem += " traceback: " + node.served.log.strip().splitlines()[-1][:200]
    return outcome


async def _attack(node: Target, attack: Attack, size: Size, outcome: Outcome, recovery_seconds: float) -> None:
    attacking = asyncio.create_task(attack(node, size))  # type: ignore[arg-type]
    await asyncio.sleep(min(1.0, size.seconds / 2))
    outcome.of_another = await node.job_of_another()
    await attacking
    figures = await node.figures()
    outcome.peak, outcome.p99, outcome.longest = figures.peak_bytes, figures.p99_seconds, figures.longest_seconds
    if figures.failures:
        outcome.problem = f"{len(figures.failures)} probes failed: {figures.failures[0]}"
    outcome.recovery, outcome.after = await node.recovered(outcome.before + 50 * MEGABYTE, recovery_seconds)
    outcome.peak = max(outcome.peak, (await node.figures()).peak_bytes)
    if outcome.peak > node.memory_bytes + SLACK_BYTES:
        outcome.problem += f" over budget and {SLACK_BYTES / MEGABYTE:.0f} MB"
