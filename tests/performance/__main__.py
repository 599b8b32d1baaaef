"""Count what a job costs, and compare it with `bounds.txt`: `python tests/performance [--write] [STORE/SERVER …]`.

`--write` writes the figures of these places, or of all, into the file: after each change that makes a job cheaper.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from performance.table import FIGURES, FILE, PLACES, Place, excess, least, margin, read, written  # noqa: E402 - found only now


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/performance", description=__doc__)
    parser.add_argument("places", nargs="*", metavar="STORE/SERVER", help=", ".join(map("/".join, PLACES)))
    parser.add_argument("--write", action="store_true", help="write the figures into bounds.txt")
    asked = parser.parse_args()
    places = [Place(*name.split("/")) for name in asked.places] or PLACES
    table = read(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    above = False
    for place in places:
        for shape, figures in least(place, 3 if asked.write else 1).items():
            bounds = table.get((place, shape), dict.fromkeys(FIGURES, 0.0))
            print(f"{'/'.join(place)}, {shape}:")
            for name, value in figures.items():
                print(f"  {name:13}{value:10.2f}, was {bounds[name]:10.2f}")
            above |= bool(excess(figures, bounds, margin(place, shape)))
            table[place, shape] = bounds | figures
    if asked.write:
        order = [(place, shape) for place in PLACES for shape in dict.fromkeys(shape for _, shape in table)]
        FILE.write_text(written({key: table[key] for key in order if key in table}), encoding="utf-8")
    sys.exit(above and not asked.write)


if __name__ == "__main__":
    main()
