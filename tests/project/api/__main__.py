"""Write the present surface as the baseline of its plugin API version, for `make api`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder is the package

import nodekit  # noqa: E402
from api.changes import CHANGELOG, FOLDER, Baseline, changes, newest_baseline, newest_version, write_baseline  # noqa: E402
from api.surface import surface  # noqa: E402


def main() -> None:
    lines = surface()
    if list(FOLDER.glob("*.txt")):
        for change in changes(newest_baseline().lines, lines):
            print(f"{'BREAKS ' if change.breaks else ''}{change.kind} {change.name}\n{change}")
    release = newest_version(CHANGELOG.read_text(encoding="utf-8"))
    path = write_baseline(Baseline(nodekit.API_VERSION, release, lines))
    print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}: {len(lines)} lines")


main()
