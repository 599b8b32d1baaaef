"""Write the present plugin API down, and print what has changed: what `make api` does."""

import difflib
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder is the package

from api.surface import BASELINE, surface  # noqa: E402


def main() -> None:
    before = BASELINE.read_text(encoding="utf-8").splitlines() if BASELINE.exists() else []
    lines = surface()
    print("\n".join(difflib.unified_diff(before, lines, lineterm="", n=0)))
    BASELINE.write_text("\n".join([*lines, ""]), encoding="utf-8")


main()
