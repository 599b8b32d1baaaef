"""Fuzz what outsiders and operators write: ``python tests/fuzz [--seconds N] [--runs N] [TARGET…]``.

`make fuzz` takes minutes, with a seed of its own each time. A finding is an input that makes a target raise: it is
written to ``.fuzz/TARGET``, as are inputs that reach new code. Repair the code, and add the input to ``corpus/TARGET``,
small and with a name that says what it is.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = HERE.parent.parent / ".fuzz"
NAMES = ("requests", "node_file", "payloads", "replies")
LONGEST_INPUT = 4096
SLOWEST_SECONDS = 20


def fuzz(name: str, options: Sequence[str], found: Path) -> int:
    """Run a target. Return 0 if nothing was found."""
    reached = found / name
    reached.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(HERE / "guided.py"),
        name,
        *options,
        f"-artifact_prefix={reached}/finding-",
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={SLOWEST_SECONDS}",
        "-print_final_stats=1",
        str(reached),
        str(HERE / "corpus" / name),
    ]
    return subprocess.run(command, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(NAMES)}; all by default")
    parser.add_argument("--seconds", type=int, default=120, help="time for each target")
    parser.add_argument("--runs", type=int, default=-1, help="number of inputs for each target")
    parser.add_argument("--seed", type=int, default=0, help="the same inputs each time; 0: others each time")
    given = parser.parse_args()
    if unknown := [name for name in given.targets if name not in NAMES]:
        parser.error(f"unknown target {unknown[0]!r}; known: {', '.join(NAMES)}")
    options = [f"-max_total_time={given.seconds}", f"-runs={given.runs}", f"-seed={given.seed}"]
    failed = [name for name in given.targets or NAMES if fuzz(name, options, FOUND)]
    sys.exit(f"found: {', '.join(failed)}; see {FOUND}" if failed else 0)


if __name__ == "__main__":
    main()
