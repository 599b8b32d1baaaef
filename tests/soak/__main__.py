"""Work a node for a while as others do in a day, and judge whether anything grows, is lost or is left.

`python tests/soak [--minutes 30] [--server NAME] [--picture FILE] [--plant FAULT]`. Exits with 1 if it finds a problem.
"""

import argparse
import asyncio
import sys
import tempfile
from functools import partial
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from soak.picture import picture  # noqa: E402 - found only now
from soak.plan import Plan  # noqa: E402
from soak.report import text  # noqa: E402
from soak.run import soak  # noqa: E402

PLANTS = ("memory", "descriptors", "tasks", "container", "processes", "wrong")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--server", choices=["hypercorn", "uvicorn"], default="hypercorn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="draw what was measured, as SVG")
    parser.add_argument("--folder", type=Path, help="keep the files of the node in this folder")
    parser.add_argument("--plant", default="", help=f"plant faults that have to be found: {', '.join(PLANTS)}")
    asked = parser.parse_args()
    plan = Plan(minutes=asked.minutes, server=asked.server, plant=asked.plant, seed=asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(soak(plan, asked.folder or Path(folder), partial(print, flush=True)))
    if asked.picture:
        asked.picture.write_text(picture(report), encoding="utf-8")
    print(text(report))
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
