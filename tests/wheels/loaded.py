"""Load everything that installed nodekit packages register, and print where it came from.

python loaded.py FOLDER CHECKOUT [MODULE…]: fails where a module of nodekit is not in FOLDER, or CHECKOUT is looked at.
"""

import importlib
import sys
from importlib.metadata import distribution, distributions
from pathlib import Path

folder, checkout = (Path(name).resolve() for name in sys.argv[1:3])
entries = [
    entry
    for found in distributions()
    for entry in found.entry_points
    if entry.group.startswith("nodekit.") or entry.name == "nodekit"
]
for entry in entries:
    entry.load()
for name in sys.argv[3:]:
    importlib.import_module(name)

loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0].startswith("nodekit")}
files = {name: Path(module.__file__).resolve() for name, module in loaded.items() if module.__file__}
if strange := [f"{name} is {file}" for name, file in files.items() if not file.is_relative_to(folder)]:
    sys.exit("\n".join(strange))
if looked := [place for place in sys.path if Path(place or ".").resolve().is_relative_to(checkout)]:
    sys.exit(f"modules are looked for in {', '.join(looked)}")
origin = distribution("nodekit-compute").read_text("direct_url.json") or ""
if f"{folder}/wheels/" not in origin:
    sys.exit(f"nodekit-compute was not installed from the wheel that was built: {origin or 'it comes from an index'}")
assert len(files) > len(entries) > 0
print(f"{len(entries)} entry points and {len(files)} modules, all of them from wheels")
