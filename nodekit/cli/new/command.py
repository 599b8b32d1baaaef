"""`nodekit new`."""

import os
import shlex
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING

import click

import nodekit
from nodekit.cli.new.template import KINDS, Naming, files, write
from nodekit.cli.plugins.catalogue import GROUPS, entries_of
from nodekit.config.distributions import OWN_DISTRIBUTION, name_of, normalised
from nodekit.config.paths import folder_problem
from nodekit.config.providers import Kind, owner, provided
from nodekit.hooks.container_rules import nearest
from nodekit.interfaces.pipeline import BUILT_IN

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # not generic before click 8.2

_PROVIDED: dict[str, Kind] = {"store": "store", "runner": "runner", "pipeline": "pipeline", "transport": "transport"}
"""The kind of provider that each kind of package has, if it is not a plugin. Guards and observers are plugins."""
_FOLDER = "'--folder'"
_CLASSES = ("Store", "Table", "Entry", "Runner", "Pipeline", "Rules", "Guard", "Observer", "Transport", "Config")
"""Endings of the names of classes in the templates."""


class _Kind(_Choice):
    """A choice among `KINDS`. For another word, the error suggests the nearest one."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            meant = "; a plugin is a guard or an observer" if value == "plugin" else nearest(value, KINDS)
            self.fail(f"{error.message.rstrip('.')}{meant}.", param, ctx)


@click.command()
@click.argument("kind", type=_Kind(KINDS))
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Write it into this folder instead of the current one.")
def new(kind: str, name: str, folder: Path | None) -> None:
    """Write a small complete package of your own: nodekit-NAME, with tests that pass.

    KIND says what the package provides. NAME is its name in node files: lower-case letters, digits and single dashes.
    """
    naming = Naming(name.removeprefix("nodekit-"))
    if problem := name_problem(naming):
        raise click.BadParameter(problem, param_hint="'NAME'")
    if problem := clash(kind, naming):
        raise click.BadParameter(problem, param_hint="'NAME'")
    parent = folder or Path()
    if text := folder_problem(parent, write=True):
        raise click.BadParameter(text, param_hint=_FOLDER)
    target = parent / naming.distribution
    if os.path.exists(target) or os.path.islink(target):
        cure = "move it away, take another NAME, or name another folder with --folder"
        raise click.BadParameter(f"{target} is already there; {cure}", param_hint="'NAME'")
    try:
        write(files(kind, naming), target)
    except OSError as error:
        raise click.ClickException(
            f"cannot write {target}: {error.strerror or error}; nothing is left of it"
        ) from error
    click.echo(f"wrote {target}: the {kind} {naming.name!r}, whose tests pass; now make it yours")
    click.echo(f"  cd {shlex.quote(str(target))} && pip install --editable '.[test]'")
    click.echo("  pytest                     # the tests that nodekit expects it to pass")
    click.echo("  nodekit check node.toml    # a node file that uses it")


def name_problem(naming: Naming) -> str | None:
    """Say what is wrong with a name, and the cure. Return None for a good name."""
    if not naming.valid:
        rule = "lower-case letters, digits and single dashes, beginning with a letter, at most 40"
        return f"{naming.name!r} is not a valid name: {rule}, such as {naming.nearest}"
    taken = {f"{naming.prefix}{name}" for name in _CLASSES} & {*nodekit.__all__}
    if taken or any(map(iskeyword, (naming.name, naming.module, naming.prefix))):
        why = f"nodekit has {min(taken)} itself" if taken else "it is a keyword of Python"
        return f"{naming.name!r} gives unusable names of classes: {why}; take another, such as my-{naming.name}"
    return None


def clash(kind: str, naming: Naming) -> str | None:
    """Say who has the name already, and the cure. Return None if the name is free."""
    if kind == "pipeline" and naming.name == BUILT_IN:
        return f"{naming.name!r} is the pipeline that every node has; take another name, such as my-{naming.name}"
    if owners := provided(_PROVIDED.get(kind, "plugin")).get(naming.name):
        return f"{naming.name!r} is provided by {owner(owners[0])}; {_cure(naming, owners[0])}"
    if _is_installed(naming.distribution):
        cure = _cure(naming, removable=naming.distribution != OWN_DISTRIBUTION)
        return f"a distribution {naming.distribution} is installed; {cure}"
    if (spec := find_spec(naming.package)) is None:
        return None
    if entry := _entry_into(naming.package):
        return f"{owner(entry)} has a package {naming.package} already; {_cure(naming, entry)}"
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), "an unknown place")
    return f"there is a package {naming.package} already, in {place}; {_cure(naming, removable=False)}"


def _entry_into(package: str) -> EntryPoint | None:
    """Return an entry point of any kind into that package, which names its owner."""
    entries = (entry for kind in GROUPS for entry in entries_of(kind))
    return next((entry for entry in entries if entry.module.partition(".")[0] == package), None)


def _cure(naming: Naming, entry: EntryPoint | None = None, *, removable: bool = True) -> str:
    """Say what to do about a name that is taken. It never advises to uninstall nodekit itself."""
    another = f"take another name, such as my-{naming.name}"
    if not removable or (entry and normalised(name_of(entry.dist) or "") == OWN_DISTRIBUTION):
        return another
    return f"{another}, or uninstall that first"


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
