"""Measure nodes, a peer, and the limit of what Python can do: `python benchmarks [--short] [--only NAMES]`.

The subjects of a scenario take turns in short rounds, so that a slow minute of the machine is one of all of them. What
is measured has a core of its own. Every result is verified. A table is printed, and written with all rounds as JSON.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "support")]

from chart import chart  # noqa: E402 - found only now
from processes import CORES, BenchError  # noqa: E402
from report import Summary, table  # noqa: E402
from running import Round, Rounds, run, summary  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402

CHARTS = (("speed.svg", "per second", "per second"), ("cpu.svg", "cpu us", "µs of processor time each, less is better"))


def machine() -> str:
    """Describe this machine, and how busy it is with other work."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in facts if "model name" in line), platform.machine())
    return f"{len(CORES)} cores, {model}, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"


class Results:
    """Rounds and summaries of all scenarios so far, written after each of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rounds: dict[str, Rounds] = {}
        self._summaries: dict[str, tuple[str, Summary]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, title: str, rounds: Rounds) -> None:
        self._rounds[name], self._summaries[name] = rounds, (title, summary(rounds))
        results = {"machine": machine(), "at": time.strftime("%Y-%m-%d %H:%M"), "scenarios": self._rounds}
        (self._folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        (self._folder / "table.md").write_text(self.table() + "\n", encoding="utf-8")
        for file, figure, unit in CHARTS:
            (self._folder / file).write_text(chart(self._summaries, figure, unit), encoding="utf-8")

    def table(self) -> str:
        return table(self._summaries)


def arguments() -> argparse.Namespace:
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__, epilog=f"Scenarios: {names}.")
    parser.add_argument("--only", default="*", help="names of scenarios, with * and commas")
    parser.add_argument("--subjects", default="*", help="names of subjects, with * and commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round")
    parser.add_argument("--short", action="store_true", help="minutes: 3 rounds of half a second, no long scenarios")
    parser.add_argument(
        "--output", type=Path, default=ROOT / ".bench", help="folder of the table, the JSON and the chart"
    )
    parser.add_argument("--plant", action="store_true", help="plant a wrong result, which has to be noticed")
    asked = parser.parse_args()
    if asked.short:
        asked.rounds, asked.seconds = min(asked.rounds, 3), min(asked.seconds, 0.5)
    asked.scenarios = [
        one._replace(subjects=[kind for kind in one.subjects if matches(kind.name, asked.subjects)])
        for one in SCENARIOS
        if matches(one.name, asked.only) and not (one.long and asked.short)
    ]
    if not any(one.subjects for one in asked.scenarios):
        parser.error(f"nothing is called {asked.only}, with subjects {asked.subjects}; there are {names}")
    return asked


def matches(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split(","))


def main() -> None:
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # with all that was started
    results, problems = Results(asked.output), list[str]()
    print(machine(), flush=True)
    for scenario in asked.scenarios:
        print(f"{scenario.name} …", flush=True)
        rounds = Round(asked.rounds, asked.seconds, plant=asked.plant)
        try:
            results.add(scenario.name, scenario.title, run(scenario, rounds, lambda line: print(line, flush=True)))
        except BenchError as error:
            problems.append(f"{scenario.name}: {error}")
            print(problems[-1], flush=True)
    print(results.table())
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
