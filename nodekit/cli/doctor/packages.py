"""The checks of `nodekit doctor` for the installed packages."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, distributions
from pathlib import Path

import nodekit
from nodekit.cli.doctor.checks import Check
from nodekit.cli.plugins.catalogue import PROVIDERS, entries_of, expected
from nodekit.config.distributions import OWN_DISTRIBUTION as DISTRIBUTION
from nodekit.config.distributions import name_of, normalised, unreadable
from nodekit.config.findings import Finding
from nodekit.config.formats import BUILT_IN
from nodekit.config.providers import load_only, provided
from nodekit.errors import NodekitError

CURE = "update, reinstall or uninstall that package"


def installed() -> Iterator[Finding]:
    """Report the version of nodekit."""
    folder = Path(nodekit.__file__).parent
    try:
        distribution(DISTRIBUTION)
    except PackageNotFoundError:
        text = (
            f"{nodekit.__version__} runs from {folder} and is not installed, so that node files can name no store and "
            "no runner"
        )
        yield Finding("error", "nodekit", text, f"pip install {DISTRIBUTION}")
        return
    yield Finding("ok", "nodekit", f"{nodekit.__version__} in {folder}")


def clashes() -> Iterator[Finding]:
    """Report other distributions that install a package `nodekit`. The last one installed overwrites files."""
    owners = {normalised(name) for one in distributions() if (name := name_of(one)) and _installs_nodekit(one)}
    for other in sorted(owners - {DISTRIBUTION}):
        text = f"the distribution {other!r} installs a package `nodekit` too, and the two overwrite each other's files"
        cure = f"pip uninstall {other}, then pip install --force-reinstall {DISTRIBUTION}"
        yield Finding("error", "packages", text, cure)


def providers() -> Iterator[Finding]:
    """Report all that a node file can name. Nothing is imported."""
    known: dict[str, list[str]] = {kind: sorted(provided(kind)) for kind in PROVIDERS}
    known["format"] = sorted({BUILT_IN, *provided("format")})
    text = "; ".join(f"{kind}s {', '.join(names)}" for kind, names in known.items() if names)
    yield Finding("ok", "providers", text or "none")


def metadata() -> Iterator[Finding]:
    """Report distributions that cannot be used because their metadata cannot be read."""
    for where, reason in unreadable():
        yield Finding("error", where, reason, "reinstall or remove it")


def checks_of_providers(kinds: Iterable[str] = (*PROVIDERS, "format")) -> Iterator[tuple[str, Check]]:
    """Yield a check of each thing that packages provide; the check imports it."""
    for kind in kinds:
        found: dict[str, list[EntryPoint]] = {}
        for entry in entries_of(kind):
            found.setdefault(entry.name, []).append(entry)
        for name, entries in found.items():
            groups = [[entry] for entry in entries] if kind == "check" else [entries]  # checks may share a name
            yield from ((f"{kind} {name!r}", partial(_loads, kind, name, group)) for group in groups)


def _loads(kind: str, name: str, entries: Sequence[EntryPoint]) -> Iterator[Finding]:
    try:
        load_only(entries, expected(kind), f"{kind} {name!r}")
    except NodekitError as error:
        text = str(error).removeprefix(f"{kind} {name!r} ")
        clash = len(entries) > 1  # the text of a clash already says what to do
        yield Finding("error", f"{kind} {name!r}", text, "" if clash else CURE)


def _installs_nodekit(one: Distribution) -> bool:
    try:
        return any(file.parts[:1] == ("nodekit",) for file in one.files or ())
    except Exception:  # its record cannot be read; then `metadata` reports it, or it does not concern nodekit
        return False
