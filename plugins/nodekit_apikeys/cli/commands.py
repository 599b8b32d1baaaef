"""The commands of `nodekit keys`."""

import time
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar, get_args

import click
from msgspec.structs import replace

from nodekit_apikeys._key import USUAL, Key, Scope, StoredSecret, check_networks
from nodekit_apikeys._text import digest_of, new_id, new_text
from nodekit_apikeys.cli.node_file import explained, fail, place_of_keys, warn_of_unknown
from nodekit_apikeys.cli.places import KeyChange
from nodekit_apikeys.cli.shown import described, say, say_json, say_key, say_table
from nodekit_apikeys.cli.values import check_duration, check_expiry, check_name

F = TypeVar("F", bound=Callable[..., Any])

_AS_TEXT = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_FILE = click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
_NAME = click.argument("name", metavar="NAME")


@click.group()
def keys() -> None:
    """Make, show and end the keys of a node, which its plugin apikeys reads.

    FILE is the node file, which says whether they are in a file or in its store. A running node takes each change
    within a second. Exits with 0; 1 when the key or the place of the keys is not as it must be; 2 for a wrong command
    line; 3 when the node file names no place of keys.
    """


def _check_networks(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        check_networks(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error
    return value


def _policy_options(command: F) -> F:
    """Add the options that say what a key may do."""
    several = partial(click.option, multiple=True)
    number = partial(click.option, type=click.IntRange(min=1), metavar="N")
    scopes = click.Choice(get_args(Scope))
    usual = ", ".join(USUAL)
    options = (
        several("--scope", "scopes", type=scopes, help=f"Kind of requests; repeatable. By default {usual}."),
        click.option("--group", callback=check_name, metavar="NAME", help="Share limits and turns with this group."),
        several("--container", "containers", metavar="ID", help="Only jobs of this container; repeatable."),
        several("--pipeline", "pipelines", metavar="NAME", help="Only jobs of this pipeline; repeatable."),
        several("--network", "networks", metavar="CIDR", callback=_check_networks, help="Only from here; repeatable."),
        number("--requests-per-minute", help="At most this many requests in a minute."),
        number("--max-pending", help="At most this many unfinished jobs."),
        click.option("--max-priority", type=click.IntRange(0, 7), help="The most urgent priority; 0 is the first."),
        number("--max-stored-bytes", help="At most this many bytes on the disk of the store."),
        click.option("--expires", callback=check_expiry, metavar="WHEN", help="A duration such as 90d, or a date."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@keys.command()
@_FILE
@click.option("--name", callback=check_name, metavar="NAME", required=True, help="The client whose jobs it may use.")
@_policy_options
@click.option("--reuse", is_flag=True, help="Give out the name of a revoked key again, with its jobs.")
@_AS_TEXT
def create(
    file: str, name: str, as_json: bool, reuse: bool, scopes: tuple[Scope, ...], group: str | None, **policy: Any
) -> None:
    """Make a key and print it. It is shown this once only.

    The file of keys is made if there is none. In a store, all nodes on it have the key.
    """
    with explained(file):
        warn_of_unknown(file, policy["containers"], policy["pipelines"])
    with explained(file), place_of_keys(file).changing() as change:
        _check_free(change, name, reuse)
        id = new_id()
        text, now = new_text(id), time.time()
        key = Key(
            id=id,
            name=name,
            group=group or "",
            created=now,
            scopes=tuple(dict.fromkeys(scopes)) or USUAL,
            secrets=(StoredSecret(digest_of(text)),),
            **policy,
        )
        _hand_out(change, key, text, as_json)


def _check_free(change: KeyChange, name: str, reuse: bool) -> None:
    """Exit if the name is taken."""
    old = change.keys.get(name)
    if old is None:
        return
    if old.revoked is None:
        fail(f"there is a key {name!r} already; choose another name, or give it a new secret: nodekit keys rotate")
    if not reuse:
        fail(f"{name!r} was the name of a key that was revoked; with --reuse, the new key may use that client's jobs")


@keys.command()
@_FILE
@_NAME
@click.option(
    "--keep",
    callback=check_duration,
    metavar="DURATION",
    default="1d",
    show_default=True,
    help="Time for which the secret from before stays valid; 0s: not at all.",
)
@_AS_TEXT
def rotate(file: str, name: str, keep: float, as_json: bool) -> None:
    """Give a key a new secret and print it. The one from before stays valid for a while.

    An earlier secret that is still valid ends at once.
    """
    with explained(file), place_of_keys(file).changing() as change:
        key, now = _known(change, name), time.time()
        if (state := key.state(now)) != "valid":
            fail(f"the key {name!r} is {state}; make a new one: nodekit keys create --reuse")
        text = new_text(key.id)
        old = (replace(key.secrets[-1], expires=now + keep),) if keep and key.secrets else ()
        _hand_out(change, replace(key, secrets=(*old, StoredSecret(digest_of(text)))), text, as_json)


def _hand_out(change: KeyChange, key: Key, text: str, as_json: bool) -> None:
    """Keep a key and print its text. A key that nobody could read is not kept."""
    before = dict(change.keys)
    change.keys[key.name] = key
    change.save()
    try:
        say_json({"key": text, **described(key, {})}) if as_json else say(text)
    except BaseException:  # an exit, too: standard output did not take it
        change.keys.clear()
        change.keys.update(before)
        change.save()
        click.echo("nodekit: the key could not be printed, and was not kept", err=True)
        raise


@keys.command()
@_FILE
@_NAME
@_AS_TEXT
def revoke(file: str, name: str, as_json: bool) -> None:
    """End a key for good. Its name stays taken, since the jobs of the client stay."""
    with explained(file):
        place = place_of_keys(file)
        with place.changing() as change:
            key = _known(change, name)
            if key.revoked is None:
                key = change.keys[name] = replace(key, revoked=time.time())
                change.save()
        if as_json:
            say_json(described(key, place.used()))


@keys.command("list")
@_FILE
@_AS_TEXT
def list_(file: str, as_json: bool) -> None:
    """List all keys, also those that are not valid any more, without their secrets."""
    with explained(file):
        place = place_of_keys(file)
        found = place.read()
        used = place.used()
    rows = [described(key, used) for key in sorted(found or (), key=lambda key: key.name)]
    if as_json:
        say_json(rows)
    elif found is None:
        click.echo(f"there are no keys; make one: nodekit keys create {file} --name NAME")
    else:
        say_table(rows)


@keys.command()
@_FILE
@_NAME
@_AS_TEXT
def show(file: str, name: str, as_json: bool) -> None:
    """Show what a key may do and when it was used last, without its secret."""
    with explained(file):
        place = place_of_keys(file)
        key = _among({key.name: key for key in place.read() or ()}, name)
        row = described(key, place.used())
    say_json(row) if as_json else say_key(row)


def _known(change: KeyChange, name: str) -> Key:
    return _among(change.keys, name)


def _among(found: dict[str, Key], name: str) -> Key:
    """Return the key of this name. Exit if there is none."""
    key = found.get(name)
    if key is None:
        nearest = get_close_matches(name, found, 1)
        fail(
            f"there is no key {name[:100]!r}"
            + (f"; did you mean {nearest[0]!r}?" if nearest else "; see nodekit keys list")
        )
    return key
