"""`nodekit containers`."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from functools import partial
from typing import Any

import click
import msgspec

from nodekit import printable, printable_json
from nodekit_docker.cli.node_file import Asked, Entry, explained
from nodekit_docker.containers.state import State
from nodekit_docker.engine.errors import EngineRefused
from nodekit_docker.sizes import shown_size

HEADS = ("CONTAINER", "STATE", "IMAGE", "DIGEST", "ADDRESS", "RESTARTS", "MEMORY", "SINCE")
ASKED_AT_ONCE = 8
SHORT_DIGEST = 12


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A container of the node file.

    - `state`: ``running``, ``paused``, ``created``, ``exited with code 3`` or ``missing``. For a program, ``image
      missing`` or the number of its running steps: ``once, 2 running``.
    - `since`: Time at which it began to run.
    """

    id: str
    state: str
    image: str
    digest: str = ""
    address: str = ""
    restarts: int = 0
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    since: datetime | None = None


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
def containers(file: str, as_json: bool) -> None:
    """List the Docker containers of a node file, and their state on the engine.

    The node need not run: containers that it has left behind are shown, too. Exits with 0, 3 when the node file does
    not compose, 1 when the engine cannot be asked.
    """
    with explained(file), closing(Asked(file)) as asked, ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        rows = list(threads.map(partial(_row, asked), asked.entries))
    if as_json:
        click.echo(printable_json(msgspec.json.format(msgspec.json.encode(rows))))
    elif not rows:
        click.echo(f"{file} has no containers in Docker")
    else:
        _print([HEADS, *map(_cells, rows)])


def _row(asked: Asked, entry: Entry) -> Row:
    if entry.once:
        return _row_of_program(asked, entry)
    state = asked.state(entry)
    if state is None:
        return Row(id=entry.id, state="missing", image=entry.image)
    used, limit = _memory(asked, entry, state) if state.running else (None, None)
    return Row(
        id=entry.id,
        state=_shown_state(state),
        image=entry.image,
        digest=_digest(asked, entry, state.image),
        address=next(_addresses(state), ""),
        restarts=state.restarts,
        memory_bytes=used,
        memory_limit_bytes=limit,
        since=datetime.fromisoformat(state.started_at) if state.running else None,
    )


def _row_of_program(asked: Asked, entry: Entry) -> Row:
    if not (digest := _digest(asked, entry, entry.image)):
        return Row(id=entry.id, state="image missing", image=entry.image)
    running = asked.listed(entry, running_only=True)
    return Row(id=entry.id, state=f"once, {len(running)} running", image=entry.image, digest=digest)


def _shown_state(state: State) -> str:
    if state.paused:
        return "paused"
    if state.running:
        return "running"
    return state.ending("") if state.started_at[:4] > "0001" else "created"


def _addresses(state: State) -> Iterator[str]:
    for bindings in state.ports.values():
        for binding in bindings or ():
            yield f"{binding['HostIp']}:{binding['HostPort']}"
    for network, address in state.addresses.items():
        if address and state.running:
            yield f"{address} ({network})"


def _digest(asked: Asked, entry: Entry, name: str) -> str:
    """Return the registry's digest, or else the image's id on this machine; empty if the image is gone."""
    try:
        image: Any = asked.ask(entry, lambda api: api.inspect_image(name))
    except EngineRefused:
        return ""
    digests: Sequence[str] = image.get("RepoDigests") or ()
    return digests[0].partition("@")[2] if digests else str(image["Id"])


def _memory(asked: Asked, entry: Entry, state: State) -> tuple[int | None, int | None]:
    """Return the memory in use and its limit, in bytes."""
    try:
        stats: Mapping[str, Any] = asked.ask(entry, lambda api: api.stats(state.id, stream=False, one_shot=True))
    except EngineRefused:  # the container has just ended
        return None, None
    memory: Mapping[str, Any] = stats.get("memory_stats") or {}
    details: Mapping[str, Any] = memory.get("stats") or {}
    cached = details.get("inactive_file", details.get("total_inactive_file", 0))  # left out, as `docker stats` does
    return max(0, memory.get("usage", 0) - cached), memory.get("limit")


# -- printing -------------------------------------------------------------------------------------


def _cells(row: Row) -> tuple[str, ...]:
    memory = ""
    if row.memory_bytes is not None and row.memory_limit_bytes:
        memory = f"{shown_size(row.memory_bytes)} of {shown_size(row.memory_limit_bytes)}"
    digest = row.digest.partition(":")[2][:SHORT_DIGEST]
    since = f"{row.since.astimezone():%Y-%m-%d %H:%M:%S}" if row.since else ""
    cells = row.id, row.state, row.image, digest, row.address, str(row.restarts), memory, since
    return tuple(printable(cell, keep="") for cell in cells)


def _print(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    for line in lines:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
