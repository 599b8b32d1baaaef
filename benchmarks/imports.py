"""How long it takes to import nodekit, and what each plugin adds.

    python benchmarks/imports.py [--rounds 21]

Each import is timed in processes of its own, one after another, in turn with the others; the first round, which writes
bytecode, does not count. Printed are the median, the fastest, and how many modules came with it. What a plugin adds is
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
    """The packages behind the offers and formats of nodekit's own distribution."""
    entries = distribution("nodekit-compute").entry_points
    groups = ("stores", "runners", "transports", "pipelines", "plugins", "formats")
    return sorted({e.module.partition(".")[0] for e in entries if e.group in {f"nodekit.{g}" for g in groups}})


def measure(package: str) -> tuple[float, int]:
    """Milliseconds, and how many modules, in a new process."""
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
