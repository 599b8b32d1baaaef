"""The key that commands send to the node, from a file or the environment: others can see the arguments of a command."""

import os
import re

import click

from nodekit import Secret

VARIABLE = "NODEKIT_API_KEY"
CURE = f"give one with --key-file or {VARIABLE}"
OTHER_KEY = f"a key was given, by --key-file or {VARIABLE}: use another one, or ask the node's operator for one"
MOST_BYTES = 1 << 16

_KEY = re.compile(r"[\x21-\x7e]+")
_PLACE = "nodekit_asgi.key"


def take_key_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Read the file of `--key-file`, for `key_of`."""
    if value is None:
        return
    try:
        with open(value, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise click.BadParameter(
            f"{value!r} cannot be read: {_reason(error)}; name a file that this user may read", ctx, param
        ) from error
    key = _key(data.decode("latin-1"))
    if key is None:
        raise click.BadParameter(f"{value!r} holds no key; expected one line of visible ASCII", ctx, param)
    ctx.meta[_PLACE] = key


def key_of(ctx: click.Context) -> Secret | None:
    """Return the key of `--key-file`, or else of the environment, or None."""
    if (key := ctx.meta.get(_PLACE)) is not None:
        return Secret(key)
    if not (text := os.environ.get(VARIABLE)):
        return None
    if (key := _key(text)) is None:
        raise click.UsageError(f"{VARIABLE} holds no key; expected one line of visible ASCII", ctx)
    return Secret(key)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _key(text: str) -> str | None:
    text = text.strip()
    return text if len(text) <= MOST_BYTES and _KEY.fullmatch(text) else None
