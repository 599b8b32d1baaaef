"""Keys as commands show them: all but their secrets."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import click
import msgspec

from nodekit import printable
from nodekit_apikeys._key import Key
from nodekit_apikeys.cli.values import shown_time

_HEADS = ("NAME", "STATE", "SCOPES", "GROUP", "EXPIRES", "LAST USE")


def described(key: Key, used: Mapping[str, float]) -> dict[str, Any]:
    """Return the facts about a key, as JSON has them. Times are texts in UTC; unset limits are left out."""
    now = time.time()
    fields: dict[str, Any] = {
        "name": key.name,
        "id": key.id,
        "state": key.state(now),
        "group": key.group or key.name,
        "scopes": list(key.scopes),
        "containers": list(key.containers),
        "pipelines": list(key.pipelines),
        "networks": list(key.networks),
        "created": shown_time(key.created),
        "expires": shown_time(key.expires),
        "revoked": shown_time(key.revoked),
        "last_used": shown_time(used.get(key.id)),
        "old_secret_expires": next((shown_time(one.expires) for one in _old_secrets(key, now)), None),
    }
    for name in ("requests_per_minute", "max_pending", "max_priority", "max_stored_bytes"):
        if (value := getattr(key, name)) is not None:
            fields[name] = value
    return fields


def _old_secrets(key: Key, now: float) -> Sequence[Any]:
    return [one for one in key.secrets[:-1] if one.expires is None or one.expires > now]


def say(text: str) -> None:
    """Print a line, at once."""
    click.echo(text)
    sys.stdout.flush()


def say_json(value: Any) -> None:
    say(msgspec.json.format(msgspec.json.encode(value)).decode())


def say_table(keys: Sequence[Mapping[str, Any]]) -> None:
    lines: list[Sequence[str]] = [_HEADS]
    for key in keys:
        scopes = ",".join(key["scopes"])
        cells = key["name"], key["state"], scopes, key["group"], key["expires"] or "never", key["last_used"] or "never"
        lines.append([printable(cell, keep="") for cell in cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    for line in lines:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def say_key(key: Mapping[str, Any]) -> None:
    width = max(len(name) for name in key)
    for name, value in key.items():
        if value is None:
            continue
        text = (", ".join(map(str, cast("list[object]", value))) or "all") if isinstance(value, list) else str(value)
        click.echo(f"{name.replace('_', ' '):<{width}}  {printable(text, keep='')}")
