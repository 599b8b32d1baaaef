"""The scenarios of the benchmark: what is asked of which subjects."""

from collections.abc import Sequence
from typing import NamedTuple

from load import Gets, Jobs
from subjects import Kind

UVICORN, HYPERCORN = Kind("uvicorn"), Kind("hypercorn", server="hypercorn")
NODES = (UVICORN, HYPERCORN)
LIMIT, ARQ = Kind("limit"), Kind("arq")
ALL = (*NODES, ARQ, LIMIT)
JOBS_100K = 100_000


class Scenario(NamedTuple):
    """A load, and the subjects that are under it in turn.

    `count` is the number of jobs or requests of a round; 0: as many as the subject does in the asked time.
    """

    name: str
    title: str
    subjects: Sequence[Kind]
    load: Jobs | Gets
    count: int = 0
    long: bool = False
    """True if it takes minutes; `--short` leaves it out."""


class Start(NamedTuple):
    """The start of a node whose store has unfinished jobs."""

    name: str
    title: str
    subjects: Sequence[Kind]
    long: bool = False


class Streams(NamedTuple):
    """Streams through a node."""

    name: str
    title: str
    subjects: Sequence[Kind]
    long: bool = False


def _of(kind: Kind, **changes: object) -> Kind:
    return kind._replace(**changes)


def _submitting() -> list[Scenario]:
    found = [
        Scenario(f"{steps}-steps-{clients}", f"{steps} {noun}, {clients} {who}", ALL, Jobs(clients, steps))
        for steps, noun in ((1, "step"), (3, "steps"))
        for clients, who in ((1, "client"), (32, "clients"), (256, "clients"))
    ]
    for size, clients in ((100, 8), (1000, 2)):
        title = f"batches of {size:,}, {clients} clients"
        found.append(Scenario(f"batch-{size}", title, ALL, Jobs(clients, batch=size)))
    found.append(Scenario("wait", "1 client, `Prefer: wait`", (*NODES, LIMIT), Jobs(1, wait=True)))
    found.append(Scenario("poll", "1 client that asks each 5 ms", ALL, Jobs(1, poll=5.0)))
    return found


def _reading() -> list[Scenario]:
    filled = tuple(_of(kind, stored=1000) for kind in NODES)
    return [
        Scenario("read", "a result by id", filled, Gets("/api/jobs?id={id}")),
        Scenario("info", "`/info`", NODES, Gets("/info")),
        Scenario("page", "a page of 100 ids", filled, Gets("/api/jobs?limit=100")),
    ]


def _full() -> list[Scenario]:
    found: list[Scenario] = []
    for many, name in ((JOBS_100K, "100k"), (10 * JOBS_100K, "1m")):
        stores = tuple(_of(UVICORN, name=f"{stored:,} stored", stored=stored) for stored in (1000, many))
        long = many > JOBS_100K
        found += [
            Scenario(f"stored-{name}-submit", "1 step, 32 clients, by jobs stored", stores, Jobs(), long=long),
            Scenario(f"stored-{name}-read", "a result by id", stores, Gets("/api/jobs?id={id}"), long=long),
            Scenario(f"stored-{name}-page", "a page of 100", stores, Gets("/api/jobs?limit=100"), long=long),
        ]
    for count in (1000, 5000):
        kinds = tuple(_of(kind, concurrency=count) for kind in NODES)
        load = Jobs(64, delay=1000.0)
        found.append(Scenario(f"in-flight-{count}", f"{count:,} calls of 1 s at once", kinds, load, count))
    return found


def _varied() -> list[Scenario]:
    payloads = [
        Scenario(f"payload-{name}", f"1 step, payloads of {name}", ALL, Jobs(clients, payload=size))
        for name, size, clients in (("1KB", 1000, 32), ("100KB", 100_000, 8), ("10MB", 10_000_000, 1))
    ]
    stores = tuple(_of(UVICORN, name=store, store=store) for store in ("sqlite", "sqlite-normal", "memory"))
    keys = (_of(UVICORN, name="no keys"), _of(UVICORN, name="keys", keys=True))
    return [
        *payloads,
        Scenario("stores", "1 step, 32 clients, by store", stores, Jobs()),
        Scenario("keys", "1 step, 32 clients, by keys", keys, Jobs()),
    ]


SCENARIOS: tuple[Scenario | Start | Streams, ...] = (
    *_submitting(),
    *_reading(),
    *_varied(),
    *_full(),
    Start("start", f"a start with {JOBS_100K:,} unfinished jobs", (_of(UVICORN, queued=JOBS_100K),)),
    Streams("streams", "streams", NODES),
)
