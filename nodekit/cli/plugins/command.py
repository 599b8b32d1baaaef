"""`nodekit plugins`: list, show and check all that installed packages provide."""

import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from typing import NoReturn

import click
import msgspec

from nodekit.cli.config.key_texts import Key
from nodekit.cli.doctor.checks import examine
from nodekit.cli.doctor.packages import CURE, checks_of_providers
from nodekit.cli.exit_codes import FAILED
from nodekit.cli.plugins.catalogue import GROUPS, Listed, catalogue, entries_of, what_is_broken
from nodekit.cli.plugins.provider_details import Portrait, portrait
from nodekit.config.distributions import owner
from nodekit.config.findings import Finding
from nodekit.errors import NodekitError
from nodekit.foreign_text import printable, printable_json, printable_lines
from nodekit.hooks.container_rules import nearest


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document, for programs.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List the providers, commands and checks of installed packages. Imports nothing."""
    if ctx.invoked_subcommand is not None:
        return
    found = catalogue()
    if as_json:
        click.echo(printable_json(msgspec.json.format(msgspec.json.encode(found), indent=2)))
        return
    head = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "")
    rows = [(one.kind, one.name, one.distribution or "?", one.version or "?", _mark(one)) for one in found.entries]
    _say_table([head, *rows])
    broken = [f"{one.kind} {one.name!r}: {one.broken}" for one in found.entries if one.broken]
    for line in (*broken, *found.unreadable):
        click.echo(f"broken: {_one_line(line)}")


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(list(GROUPS)), help="The kind, if several kinds have this name.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document, for programs.")
def show(name: str, kind: str | None, as_json: bool) -> None:
    """Show one of them: its description, hooks, settings and source. NAME may also be KIND:NAME.

    Imports it. If that fails, exits with 1 and prints the reason.
    """
    kind, entry = _the_one(name, kind)
    try:
        if text := what_is_broken(kind, entry):
            raise NodekitError(f"{kind} {entry.name!r} of {owner(entry)} is broken: {text}")
        found = portrait(kind, entry)
    except NodekitError as error:
        _fail(str(error) if "uninstall" in str(error) or "reinstall" in str(error) else f"{error}; {CURE}")
    if as_json:
        click.echo(printable_json(msgspec.json.format(msgspec.json.encode(found), indent=2)))
    else:
        click.echo(printable_lines("\n".join(_lines(found))))


@plugins.command()
def check() -> None:
    """Import each of them, and print which fail. One that fails, exits or hangs does not affect the others.

    Exits with 0, or with 1 if one fails.
    """
    failed = 0
    for subject, looks in checks_of_providers(GROUPS):
        findings = examine(subject, looks)
        failed += len(findings)
        for finding in findings or [Finding("ok", subject, "can be imported")]:
            cure = f"; {finding.cure}" if finding.cure else ""
            click.echo(f"{finding.level:<7}{_one_line(f'{finding.subject}: {finding.text}{cure}')}")
    for line in catalogue().unreadable:
        failed += 1
        click.echo(f"{'error':<7}{_one_line(line)}")
    sys.exit(FAILED if failed else 0)


def _the_one(name: str, kind: str | None) -> tuple[str, EntryPoint]:
    """Return the kind and the entry point that a name means. End the command if there is none, or more than one."""
    before, colon, after = name.partition(":")
    if colon and kind is None and before in GROUPS:
        kind, name = before, after
    entries = [(one, entry) for one in GROUPS if kind in (None, one) for entry in entries_of(one)]
    found = [(one, entry) for one, entry in entries if entry.name == name]
    if not found:
        known = [entry.name for _, entry in entries]
        cure = nearest(name, known) or "; `nodekit plugins` lists all"
        raise click.UsageError(f"no installed package provides {kind or 'anything named'} {name!r}{cure}")
    if any(one != "check" for one, _ in found):  # a check of `nodekit doctor` has the name of the thing that it checks
        found = [(one, entry) for one, entry in found if one != "check"]
    kinds = sorted({one for one, _ in found})
    if len(kinds) > 1:
        raise click.UsageError(f"{name!r} is {' and '.join(kinds)}; say which: --kind {kinds[0]}")
    if len(found) > 1:
        owners = ", ".join(owner(entry) for _, entry in found)
        _fail(f"{kinds[0]} {name!r} is provided by several distributions ({owners}); uninstall all but one")
    return found[0]


def _lines(found: Portrait) -> Iterator[str]:
    yield f"{found.kind} {found.name}: {' '.join(found.text.split())}" if found.text else f"{found.kind} {found.name}"
    yield f"  from {found.distribution} {found.version}{f': {found.summary}' if found.summary else ''}"
    if found.home_page:
        yield f"  see {found.home_page}"
    yield f"  module {found.module}{f', {found.file}' if found.file else ''}"
    if found.hooks:
        yield f"  hooks: {', '.join(found.hooks)}"
    if found.capabilities:
        yield f"  can: {', '.join(found.capabilities)}"
    yield from _key_lines("settings", found.keys)
    of_containers = "settings of its containers" if found.kind == "runner" else "settings that it reads from containers"
    yield from _key_lines(of_containers, found.container_keys)


def _key_lines(title: str, keys: Sequence[Key]) -> Iterator[str]:
    if keys:
        yield f"\n{title}:"
    for key in keys:
        default = key.default if key.default in ("required", "none") else f"default {key.default}"
        yield f"  {key.name}: {key.type}; {default}"
        if key.text:
            yield f"      {key.text}"


def _mark(one: Listed) -> str:
    return "broken, see below" if one.broken else ""


def _say_table(rows: Sequence[Sequence[str]]) -> None:
    rows = [[printable(cell, keep="") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _fail(text: str) -> NoReturn:
    raise click.ClickException(_one_line(text))
