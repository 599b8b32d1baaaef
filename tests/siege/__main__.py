"""Attack a freshly started node, once for each attack and server, and print what became of it.

`python tests/siege [--short] [--server NAME] [ATTACK …]`. Attackers call from 127.0.0.2 and on, others from 127.0.0.1.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from siege.attacks import ATTACKS, Size  # noqa: E402 - found only now
from siege.outcome import HEAD, run  # noqa: E402

FULL, SHORT = Size(10, 1), Size(2, 8)


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/siege", description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--server", action="append", choices=["hypercorn", "uvicorn"])
    parser.add_argument("attacks", nargs="*", metavar="ATTACK")
    asked = parser.parse_args()
    chosen = [one for one in ATTACKS if not asked.attacks or one.__name__ in asked.attacks]
    print(HEAD, flush=True)
    began, bad = time.monotonic(), 0
    for attack in chosen:
        for server in asked.server or ["hypercorn", "uvicorn"]:
            outcome = await run(attack, server, SHORT if asked.short else FULL)
            bad += bool(outcome.problem)
            print(outcome.row, flush=True)
    print(f"\n{len(chosen)} attacks, {bad} with problems, in {time.monotonic() - began:.0f} s")
    sys.exit(bool(bad))


if __name__ == "__main__":
    asyncio.run(main())
