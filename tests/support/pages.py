"""The pages of the documentation, and the tables and examples in them."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from typing import Any

import msgspec
from paths import ROOT
from planted import plant

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "contrib").glob("*/README.md")),
]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w.]+\.(?:py|toml))\n")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    yield from _BLOCK.findall(page.read_text(encoding="utf-8"))


def write_files(page: Path, folder: Path) -> None:
    """Write the blocks that are files, and plant the metadata of the packages among them."""
    for _, text in blocks(page):
        if name := FILE_NAME.match(text):
            (folder / name[1]).write_text(text, encoding="utf-8")
    if (project := folder / "pyproject.toml").exists():
        install(tomllib.loads(project.read_text(encoding="utf-8"))["project"], folder)


def install(project: Mapping[str, Any], folder: Path) -> None:
    """Plant the metadata of a project; its modules are there."""
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups]
    plant(folder, project["name"], "\n".join(lines), None, version=project["version"])


def settings(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the keys and defaults of a Struct as the reference writes them."""
    return {
        field.name: "required" if field.required else written(field.default)
        for field in msgspec.structs.fields(struct)
        if field.name not in ("containers", "rules")
    }


def written(default: Any) -> str:
    if default is None:
        return "none"
    return f"`{msgspec.json.encode(dict(default) if isinstance(default, Mapping) else default).decode()}`"


def built_in() -> list[EntryPoint]:
    groups = tuple(f"nodekit.{kind}s" for kind in ("store", "runner", "transport", "pipeline", "plugin"))
    return sorted(
        (entry for entry in distribution("nodekit-compute").entry_points if entry.group in groups),
        key=lambda entry: (entry.group, entry.name),
    )
