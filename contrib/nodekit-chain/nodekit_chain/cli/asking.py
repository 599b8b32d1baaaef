"""Requests of the commands to a node, at its page `/-/chain/`."""

import os
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import click
import msgspec

from nodekit import printable

DEFAULT_URL = "http://127.0.0.1:4000"
KEY_VARIABLE = "NODEKIT_API_KEY"
SECONDS = 30
MOST_BYTES = 16 << 20
NOT_FOUND = "the node has no page /-/chain/: its node file has no plugin chain, or it is no node"


def ask(node: str, path: str, **query: str) -> Any:
    """Return the JSON of a page. Raise `click.ClickException` with the cure if there is none."""
    url = f"{node.rstrip('/')}/-/chain{path}" + (f"?{urlencode(query)}" if query else "")
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--node: expected http://HOST:PORT or https://HOST:PORT, got {node!r}")
    key = os.environ.get(KEY_VARIABLE, "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    opener = build_opener(ProxyHandler({}))  # a proxy of the environment is not on the way to a node
    try:
        with opener.open(Request(url, headers=headers), timeout=SECONDS) as reply:  # noqa: S310  # http or https, see above
            return msgspec.json.decode(reply.read(MOST_BYTES))
    except HTTPError as error:
        with error:  # it holds the connection
            raise click.ClickException(_refusal(error)) from None
    except msgspec.DecodeError:
        raise click.ClickException(f"{node} answers something else than JSON; is it a node?") from None
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        cure = "is it running? --node or NODEKIT_URL name another address"
        raise click.ClickException(printable(f"{node} does not answer: {reason}; {cure}")) from None


def _refusal(error: HTTPError) -> str:
    try:
        text = str(msgspec.json.decode(error.read(MOST_BYTES), type=dict[str, Any])["error"])
    except (msgspec.MsgspecError, KeyError, OSError, ValueError):
        text = f"it answers with status {error.code}"
    if error.code == 404:
        text = NOT_FOUND
    if error.code in (401, 403):
        text += f"; give the key of an operator in {KEY_VARIABLE}, or ask on the node's own machine"
    return printable(text)
