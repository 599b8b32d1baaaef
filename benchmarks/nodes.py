"""Jobs per second of one, two and three nodes on one PostgreSQL, for containers of 50 ms and for the queue alone.

    python benchmarks/nodes.py [--nodes 1 2 3] [--jobs 600] [--slots 16] [--call-seconds 0.05] [--url URL]

Nodes are `nodekit serve` processes with a function that sleeps, `--slots` at once. The server is one of its own in a
temporary folder, and waits for the disk (`fsync`). `--url` names another database, in which the schema `bench_nodes` is
left. Jobs are submitted in batches, at all nodes in turn; their rate counts from the first request to the end of the
last job. The limit is what the slots allow: nodes × slots / call seconds. For the queue alone, the function does not
sleep.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
BATCH = 100
SCHEMA = "bench_nodes"
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
use = "postgres"
url = {{ env = "BENCH_DATABASE" }}
schema = "{schema}"
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
def database() -> Iterator[str]:
    """Run a server of its own, and give the address of a database."""
    sys.path.append(str(ROOT / "contrib" / "nodekit-postgres" / "tests"))
    from postgres_server import PostgresServer

    with PostgresServer({"fsync": "on"}) as server, server.database() as made:
        yield made.url


@contextmanager
def node(folder: Path, name: str, url: str, slots: int) -> Iterator[str]:
    """Run a node; give its URL once it listens."""
    file = folder / f"{name}.toml"
    file.write_text(NODE.format(name=name, slots=slots, schema=SCHEMA))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--call-seconds", type=float, default=0.05)
    parser.add_argument("--url", help="a PostgreSQL database that may be written to")
    given = parser.parse_args()
    print(f"{'nodes':>5}  {'jobs/s':>8}  {'of the limit':>12}  {'queue alone, jobs/s':>20}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nodekit-nodes-")))
        (folder / "work.py").write_text(WORK)
        url = given.url or stack.enter_context(database())
        for count in given.nodes:
            with ExitStack() as running:
                urls = [
                    running.enter_context(node(folder, f"node-{number}", url, given.slots)) for number in range(count)
                ]
                measured(urls, BATCH, 0)  # warm
                rate = measured(urls, given.jobs, given.call_seconds)
                alone = measured(urls, given.jobs, 0)
            limit = count * given.slots / given.call_seconds
            print(f"{count:>5}  {rate:>8.0f}  {rate / limit:>12.0%}  {alone:>20.0f}", flush=True)


if __name__ == "__main__":
    main()
