"""`nodekit store stats`."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import msgspec

from nodekit.cli.store.ages import duration_text, time_text
from nodekit.cli.store.node_store import failures, run, store_of, view_of
from nodekit.cli.store.options import FILE
from nodekit.cli.store.output import Table, dated, echo_json, short
from nodekit.cli.store.reading import Choice, Reader
from nodekit.foreign_text import printable
from nodekit.interfaces.store import JobStore
from nodekit.model.container import ClientId, ContainerId
from nodekit.model.job import UNFINISHED, UNSUCCESSFUL

TOP = 10
"""Number of clients and containers that are named."""
MOST_KNOWN = 100_000
"""Number of clients or containers that are told apart; there may be one for each job."""
OTHERS = "(others)"


class Stats(msgspec.Struct):
    """The numbers of a store.

    - `jobs`: Numbers of jobs by status.
    - `clients`, `waiting`, `failures`: Numbers of jobs of the clients with the most jobs, of unfinished jobs by due
      container, and of failed jobs by the container of their error.
    - `bytes`: Payloads of all jobs. What a retry shares with the old job counts for both.
    - `oldest_unfinished_at`, `first_finished_at`, `last_finished_at`: Unix times.
    - `damaged`: Number of jobs that cannot be read.
    - `store`: Facts that this kind of store knows of itself.
    """

    jobs: dict[str, int] = {}
    bytes: int = 0
    oldest_unfinished_at: float | None = None
    first_finished_at: float | None = None
    last_finished_at: float | None = None
    damaged: int = 0
    clients: dict[ClientId, int] = {}
    waiting: dict[ContainerId, int] = {}
    failures: dict[ContainerId, int] = {}
    store: Mapping[str, str | int] = {}


@click.command()
@FILE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(file: str, as_json: bool) -> None:
    """Count the jobs of the store of a node file: by status, client and container.

    The node may run meanwhile, or not. Nothing is written. Exits with 0, 3 when the table [store] is not valid, 1 when
    the store fails.
    """
    store = store_of(file)
    found = run(file, lambda: _count(store))
    with failures(file):
        if as_json:
            echo_json(dated(found))
        else:
            _echo(found)


def _echo(found: Stats) -> None:
    for line in _lines(found):
        click.echo(line)
    for heads, counts in (
        (("CLIENT", "JOBS"), found.clients),
        (("CONTAINER", "UNFINISHED"), found.waiting),
        (("CONTAINER", "FAILED"), found.failures),
    ):
        if counts:
            click.echo()
            Table(heads).echo((short(name) or "-", str(number)) for name, number in counts.items())


async def _count(store: JobStore) -> Stats:
    found, jobs = Stats(), Counter[str]()
    clients, waiting, failures = Counter[str](), Counter[str](), Counter[str]()
    async with view_of(store) as view:
        reader = Reader(view)
        async for page in reader.states(Choice()):
            found.bytes += sum((await view.sizes([job.id for job in page])).values())
            for job in await reader.with_error(page):
                jobs["queued" if job.status == "accepted" else str(job.status)] += 1
                _add(clients, job.client)
                if job.status in UNFINISHED:
                    _add(waiting, job.due or "")
                    found.oldest_unfinished_at = _least(found.oldest_unfinished_at, job.accepted_at)
                elif job.finished_at is not None:
                    found.first_finished_at = _least(found.first_finished_at, job.finished_at)
                    found.last_finished_at = max(found.last_finished_at or 0.0, job.finished_at)
                if job.status in UNSUCCESSFUL:
                    _add(failures, job.error.container if job.error else "")
        found.damaged = len(reader.problems)
    facts: Any = getattr(store, "facts", None)
    found.store = await facts() if facts is not None else {}
    found.jobs = dict(jobs.most_common())
    found.clients, found.waiting, found.failures = (
        dict(some.most_common(TOP)) for some in (clients, waiting, failures)
    )
    return found


def _add(counts: Counter[str], name: str) -> None:
    counts[name if name in counts or len(counts) < MOST_KNOWN else OTHERS] += 1


def _least(one: float | None, other: float) -> float:
    return other if one is None else min(one, other)


def _lines(found: Stats) -> Iterator[str]:
    rows: Sequence[tuple[str, str]] = [
        ("jobs", str(sum(found.jobs.values()))),
        *((f"  {status}", str(number)) for status, number in found.jobs.items()),
        ("payload bytes", str(found.bytes)),
        *_times(found),
        *([("damaged jobs", f"{found.damaged}; see nodekit store check")] if found.damaged else []),
        *((name.replace("_", " "), str(value)) for name, value in found.store.items()),
    ]
    for name, value in rows:
        yield printable(f"{name:<20} {value}", keep="")


def _times(found: Stats) -> Iterator[tuple[str, str]]:
    now = time.time()
    for name, at in (
        ("oldest unfinished", found.oldest_unfinished_at),
        ("first finished", found.first_finished_at),
        ("last finished", found.last_finished_at),
    ):
        if at is not None:
            yield name, f"{time_text(at)}, {duration_text(max(0.0, now - at))} ago"
