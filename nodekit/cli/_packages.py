"""What `nodekit doctor` looks at among the installed packages."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Literal, get_args

import nodekit
from nodekit.cli._examine import Check
from nodekit.errors import NodekitError
from nodekit.finding import Finding
from nodekit.formats import BUILT_IN, load_format
from nodekit.offers import Kind, load_offer, offered

DISTRIBUTION = "nodekit-compute"
EXTRAS = {"fast": 'the server "uvicorn" of the transport `asgi`'}
"""What a user may want beside a plain install, and what it is for."""


def installed() -> Iterator[Finding]:
    """Which nodekit this is, and what of it is there."""
    folder = Path(nodekit.__file__).parent
    try:
        requirements = distribution(DISTRIBUTION).requires or []
    except PackageNotFoundError:
        text = f"{nodekit.__version__} runs from {folder} and is not installed, so that no store or runner has a name"
        yield Finding("error", "nodekit", text, f"pip install {DISTRIBUTION}")
        return
    yield Finding("ok", "nodekit", f"{nodekit.__version__} in {folder}")
    for extra, purpose in EXTRAS.items():
        if missing := [name for name in _of_extra(extra, requirements) if not _is_installed(name)]:
            text = f"{', '.join(missing)} not installed; only needed for {purpose}"
            yield Finding("note", f"[{extra}]", text, f"if you want that: pip install '{DISTRIBUTION}[{extra}]'")
        else:
            yield Finding("ok", f"[{extra}]", f"installed: {purpose}")


def clashes() -> Iterator[Finding]:
    """Other distributions that install a package `nodekit`: whichever came last has overwritten files of the other."""
    owners = {re.sub(r"[-_.]+", "-", name).lower() for name in packages_distributions().get("nodekit", ())}
    for other in sorted(owners - {DISTRIBUTION}):
        text = f"the distribution {other!r} installs a package `nodekit` too, and the two overwrite each other's files"
        cure = f"pip uninstall {other}, then pip install --force-reinstall {DISTRIBUTION}"
        yield Finding("error", "packages", text, cure)


def offers() -> Iterator[Finding]:
    """What a node file can name. Nothing is imported."""
    known: dict[str, list[str]] = {kind: sorted(offered(kind)) for kind in _kinds()}
    known["format"] = sorted({BUILT_IN, *offered("format")})
    text = "; ".join(f"{kind}s {', '.join(names)}" for kind, names in known.items() if names)
    yield Finding("ok", "offers", text or "none")


def checks_of_offers() -> Iterator[tuple[str, Check]]:
    """A check of each offer, which imports it."""
    for kind in _kinds():
        for name in sorted(offered(kind)):
            yield f"{kind} {name!r}", partial(_loads, kind, name, partial(load_offer, kind, name))
    for name in sorted(offered("format")):
        yield f"format {name!r}", partial(_loads, "format", name, partial(load_format, name))


def _loads(kind: Kind | Literal["format"], name: str, load: Callable[[], object]) -> Iterator[Finding]:
    try:
        load()
    except NodekitError as error:
        text = str(error).removeprefix(f"{kind} {name!r} ")
        clash = len(offered(kind)[name]) > 1  # the text then says what to do
        yield Finding("error", f"{kind} {name!r}", text, "" if clash else "update, reinstall or uninstall that package")


def _kinds() -> tuple[Kind, ...]:
    return get_args(Kind)


def _of_extra(extra: str, requirements: list[str]) -> list[str]:
    """The distributions that an extra asks for, from lines such as ``uvicorn>=0.30; extra == "fast"``."""
    found = [re.match(r"[\w.-]+", line) for line in requirements if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return [name[0] for name in found if name]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
