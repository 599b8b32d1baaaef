"""`nodekit chain status` and `nodekit chain show`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec

from nodekit import counted, printable, printable_json
from nodekit_chain.cli.asking import DEFAULT_URL, ask

F = TypeVar("F", bound=Callable[..., Any])
ETHER = 10**18


def _options(command: F) -> F:
    node = click.option(
        "--node",
        metavar="URL",
        envvar="NODEKIT_URL",
        show_envvar=True,
        default=DEFAULT_URL,
        show_default=True,
        help="http://HOST:PORT or https://HOST:PORT.",
    )
    return node(click.option("--json", "as_json", is_flag=True, help="Print JSON, as /-/chain/ answers.")(command))


@click.group()
def chain() -> None:
    """Show what a node that runs knows of its chain."""


@chain.command()
@_options
def status(node: str, as_json: bool) -> None:
    """Show head and lag of the chain, its subscriptions and the work for them, and the account.

    Exits with 0, 1 when the node does not answer or serves no chain.
    """
    found: Mapping[str, Any] = ask(node, "/")
    _print(found, as_json, _status_lines(found))


@chain.command()
@click.argument("id")
@_options
def show(id: str, node: str, as_json: bool) -> None:
    """Show a subscription, and the records of the work for it.

    ID is its number, or OWNER/NONCE of a delegated one. Exits with 0, 1 when the node does not answer or knows none.
    """
    found: Mapping[str, Any] = ask(node, "/show", id=id)
    if found["subscription"] is None and not found["records"]:
        raise click.ClickException(printable(f"there is no subscription {id}, and no work for it"))
    _print(found, as_json, _show_lines(found))


def _print(found: Mapping[str, Any], as_json: bool, lines: Iterator[str]) -> None:
    if as_json:
        click.echo(printable_json(msgspec.json.format(msgspec.json.encode(found))))
    else:
        click.echo("\n".join(map(printable, lines)))


def _status_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"account      {found['address'] or 'no key yet'}{_account(found.get('account'))}"
    if found["served"]:
        leads = "this node watches and sends" if found["leads"] else "another node watches and sends, or none yet"
        yield f"coordinator  {found['coordinator']} on chain {found['chain_id']}; {leads}"
    else:
        yield f"coordinator  not known yet: the registry {found['registry']} has not answered"
    for endpoint in found.get("endpoints", ()):
        yield f"endpoint     {endpoint['name']}: {endpoint['failure'] or 'answers'}"
    if (watch := found["watch"]) is None:
        yield "watch        no block was seen yet"
        return
    behind = f"{counted(watch['latest'] - watch['trail'], 'block')} behind"
    yield f"watch        block {watch['latest']} of {_time(watch['latest_timestamp'])}, read {behind} it"
    yield f"             by node {watch['node']} at {_time(watch['at'])}; next nonce {watch['next_nonce']}"
    yield f"subscriptions up to {watch['newest_id']}: {_counts(watch['subscriptions'])}"
    yield f"work         {_counts(watch['work'])}"
    for id, reason in watch["aside"].items():
        yield f"set aside    subscription {id}: {reason}"


def _account(account: Mapping[str, Any] | None) -> str:
    if account is None:
        return ""
    if "error" in account:
        return f": {account['error']}"
    pending = counted(account["pending"], "pending transaction")
    return f": {int(account['balance']) / ETHER:.6g} ether, nonce {account['nonce']}, {pending}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number) or "none"


def _show_lines(found: Mapping[str, Any]) -> Iterator[str]:
    if (subscription := found["subscription"]) is not None:
        for name, value in subscription.items():
            yield f"{name:<15} {value}"
    for record in found["records"]:
        yield ""
        yield from _record_lines(record)


def _record_lines(record: Mapping[str, Any]) -> Iterator[str]:
    reason = f": {record['reason']}" if record["reason"] else ""
    yield f"interval {record['interval']}  {record['state']}{reason}"
    facts: Sequence[tuple[str, Any]] = (
        ("containers", ", ".join(record["containers"])),
        ("job", record["job"]),
        ("attempts", record["attempts"] or None),
        ("nonce", record["nonce"]),
        ("transactions", ", ".join(record["transactions"]) or None),
        ("block", record["block"]),
        ("seen", _time(record["seen_at"])),
        ("changed", _time(record["changed_at"])),
    )
    for name, value in facts:
        if value is not None:
            yield f"  {name:<13} {value}"


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return f"{seconds!r}"
