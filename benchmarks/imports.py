"""The import time of nodekit, and the time that each plugin adds.

    python benchmarks/imports.py [--rounds 21]

Each import is timed in its own processes, one at a time and in turn with the others. The first round, which writes
bytecode, does not count. The output is the median, the fastest time, and the number of modules. A plugin's time is
measured after `import nodekit`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from importlib.metadata import distribution

CODE = """
import json, sys, time
{before}
known = len(sys.modules)
begun = time.perf_counter()
import {package}
print(json.dumps([time.perf_counter() - begun, len(sys.modules) - known]))
"""


def plugins() -> list[str]:
    """Return the packages of the providers and formats of nodekit's own distribution."""
    entries = distribution("nodekit-compute").entry_points
    groups = ("stores", "runners", "transports", "pipelines", "plugins", "formats")
    return sorted({e.module.partition(".")[0] for e in entries if e.group in {f"nodekit.{g}" for g in groups}})


def measure(package: str) -> tuple[float, int]:
    """Import a package in a new process. Return the milliseconds, and the number of modules it loads."""
    before = "" if package == "nodekit" else "import nodekit"
    code = CODE.format(before=before, package=package)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return seconds * 1000, modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    packages = ["nodekit", *plugins()]
    found = [[measure(package) for package in packages] for _ in range(rounds + 1)][1:]
    print("| | median | fastest | modules |\n|---|---|---|---|")
    for number, package in enumerate(packages):
        times = [one[number][0] for one in found]
        shown = f"`import {package}`" if package == "nodekit" else f"`{package}`, on top"
        print(f"| {shown} | {statistics.median(times):.1f} ms | {min(times):.1f} ms | {found[0][number][1]} |")


if __name__ == "__main__":
    main()
