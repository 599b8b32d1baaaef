"""Jobs per second of one, two and three nodes on one PostgreSQL and on one Redis, for containers of 50 ms and for the
queue alone.

    python benchmarks/nodes.py [--stores postgres redis] [--nodes 1 2 3] [--jobs 600] [--slots 16]
                               [--call-seconds 0.05] [--url URL]

Nodes are `nodekit serve` processes with a function that sleeps, `--slots` at once. Servers are ones of its own in
temporary folders, and wait for the disk (`fsync`, `appendfsync always`). `--url` names another one for a single store,
in which the schema or the keys `bench_nodes` are left. Jobs are submitted in batches, at all nodes in turn; their rate
counts from the first request to the end of the last job. The limit is what the slots allow: nodes × slots / call
seconds. For the queue alone, the function does not sleep.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
BATCH = 100
PLACE: Mapping[str, str] = {"postgres": 'schema = "bench_nodes"', "redis": 'prefix = "bench_nodes"'}
START_SECONDS = 60

NODE = """
[node]
name = "{name}"
concurrency = {slots}
max_pending = 1000000
[node.each_client]
concurrency = {slots}
max_pending = 1000000
[store]
use = "{store}"
url = {{ env = "BENCH_DATABASE" }}
{place}
[[runners]]
use = "function"
[[runners.containers]]
id = "work"
call = "work.py:work"
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""
WORK = "import anyio\n\nasync def work(data):\n    await anyio.sleep(data['seconds'])\n    return {}\n"


@contextmanager
def server_of(store: str) -> Iterator[str]:
    """Run a server of its own for a store, and give its address."""
    sys.path.append(str(ROOT / "contrib" / f"nodekit-{store}" / "tests"))
    if store == "postgres":
        from postgres_server import PostgresServer

        with PostgresServer({"fsync": "on"}) as server, server.database() as made:
            yield made.url
    else:
        from redis_server import RedisServer

        with RedisServer() as redis:
            yield redis.url


@contextmanager
def node(folder: Path, name: str, store: str, url: str, slots: int) -> Iterator[str]:
    """Run a node; give its URL once it listens."""
    file = folder / f"{name}.toml"
    file.write_text(NODE.format(name=name, slots=slots, store=store, place=PLACE[store]))
    command = [sys.executable, "-m", "nodekit.cli", "serve", str(file), "--log-level", "warning"]
    env = {**os.environ, "BENCH_DATABASE": url}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("listening on "):
                    yield line.split()[-1]
                    break
            else:
                raise SystemExit(f"{name} did not start")
        finally:
            process.terminate()


def ask(url: str, body: object = None) -> object:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})) as reply:
        return json.load(reply)


def measured(urls: Sequence[str], jobs: int, seconds: float) -> float:
    """Return the jobs per second, from the first request to the end of the last job."""
    request = {"containers": ["work"], "data": {"seconds": seconds}}
    began = time.monotonic()
    for number, start in enumerate(range(0, jobs, BATCH)):
        ask(f"{urls[number % len(urls)]}/api/jobs/batch", [request] * min(BATCH, jobs - start))
    while ask(f"{urls[0]}/api/jobs?pending=true&limit=1"):
        time.sleep(0.02)
    return jobs / (time.monotonic() - began)


def measure(folder: Path, store: str, url: str, count: int, given: argparse.Namespace) -> None:
    """Run so many nodes on a store, and print their row."""
    with ExitStack() as running:
        names = [f"{store}-{number}" for number in range(count)]
        urls = [running.enter_context(node(folder, name, store, url, given.slots)) for name in names]
        measured(urls, BATCH, 0)  # warm
        rate = measured(urls, given.jobs, given.call_seconds)
        alone = measured(urls, given.jobs, 0)
    limit = count * given.slots / given.call_seconds
    print(f"{store:>8}  {count:>5}  {rate:>8.0f}  {rate / limit:>12.0%}  {alone:>20.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", nargs="+", choices=PLACE, default=[*PLACE])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--call-seconds", type=float, default=0.05)
    parser.add_argument("--url", help="a PostgreSQL database or a Redis that may be written to")
    given = parser.parse_args()
    if given.url and len(given.stores) > 1:
        parser.error("--url is for one store; name it with --stores")
    print(f"{'store':>8}  {'nodes':>5}  {'jobs/s':>8}  {'of the limit':>12}  {'queue alone, jobs/s':>20}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nodekit-nodes-")))
        (folder / "work.py").write_text(WORK)
        for store in given.stores:
            with ExitStack() as serving:
                url = given.url or serving.enter_context(server_of(store))
                for count in given.nodes:
                    measure(folder, store, url, count, given)


if __name__ == "__main__":
    main()
