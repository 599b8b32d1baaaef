"""Three nodes on one store, behind HAProxy: 300 jobs are submitted, one node is killed, and every result arrives.

DATABASE_URL names a PostgreSQL database that may be written to; its schema `nodekit` is used. With STORE=redis it names
a Redis, whose keys with the prefix `nodekit` are used. `make demo-cluster` starts a server for the demo alone.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event
from typing import Any

import click

HERE = Path(__file__).parent
NODES: Sequence[str] = ("red", "green", "blue")
VICTIM = "green"
STEPS: Sequence[str] = ("fetch", "detect", "label")
CLIENTS = 60
SECONDS = 60.0
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class DemoFailed(Exception):
    """The demo cannot go on. The message says why."""


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    if "DATABASE_URL" not in os.environ:
        sys.exit("DATABASE_URL is not set: name a database of the store, or run `make demo-cluster` in the checkout")
    haproxy = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")
    if haproxy is None:
        sys.exit("haproxy: not found; install it: apt-get install haproxy")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nodekit-cluster-")))
            show(Cluster(stack, folder, haproxy), jobs)
    except (DemoFailed, OSError, HTTPException, subprocess.CalledProcessError) as error:
        sys.exit(f"demo-cluster: {error or type(error).__name__}")
    tell(f"everything has stopped, after {time.monotonic() - began:.0f} s")


def show(cluster: "Cluster", jobs: int) -> None:
    """Submit jobs, kill a node when a third of them is done, and follow them to the end."""
    click.echo(f"\n{jobs} jobs of three steps ({' → '.join(STEPS)}), through the proxy")
    began = time.monotonic()
    pool = ThreadPoolExecutor(CLIENTS)
    try:
        done = followed(cluster, [pool.submit(cluster.job, number) for number in range(jobs)], began)
    finally:
        cluster.ending.set()
        pool.shutdown(wait=False, cancel_futures=True)
    if wrong := [job for job in done if job["status"] != "success"]:
        raise DemoFailed(f"{len(wrong)} jobs failed, such as {wrong[0]}")
    ran = Counter(node for job in done for node in job["result"]["output"]["nodes"])
    click.echo(f"\n{len({job['id'] for job in done})} jobs, {len(done)} results; steps by node: {told(ran)}")
    cluster.start(VICTIM)
    click.echo(f"\nnodekit cluster node.toml\n{cluster.report()}")


def followed(cluster: "Cluster", waiting: list[Future[Any]], began: float) -> list[Any]:
    """Return the results of jobs; kill a node on the way, and print what happens."""
    done: list[Any] = []
    is_killed, last = False, 0.0
    for future in as_completed(waiting, timeout=SECONDS):
        done.append(future.result())
        now = time.monotonic()
        if not is_killed and len(done) * 3 >= len(waiting):
            held = cluster.in_flight(VICTIM)
            cluster.kill(VICTIM)
            is_killed = True
            line(began, len(done), f"{VICTIM} is killed, with {held} jobs in its hands", fg="red")
        elif now - last > 0.5:
            last = now
            line(began, len(done), cluster.state())
    line(began, len(done), cluster.state())
    return done


def line(began: float, done: int, text: str, **style: Any) -> None:
    click.echo(f"  {time.monotonic() - began:5.1f} s  {done:4} done  {click.style(text, **style)}")


def tell(text: str) -> None:
    click.echo(f"{click.style('✓', fg='green')} {text}")


def told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in NODES if name in counts)


class Cluster:
    """Three nodes and a proxy, as processes that end with the demo."""

    def __init__(self, stack: ExitStack, folder: Path, haproxy: str) -> None:
        self._stack, self._folder = stack, folder
        self._ports = dict(zip((*NODES, "proxy"), free_ports(len(NODES) + 1), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ending = Event()
        """Set when no client may ask any more."""
        for name in NODES:
            self._begin(name)
        for name in NODES:
            self._wait(name)
            tell(f"node {name} listens at http://127.0.0.1:{self._ports[name]}")
        ports = {name.upper(): str(self._ports[name]) for name in NODES} | {"PORT": str(self._ports["proxy"])}
        self._run("proxy", [haproxy, "-db", "-f", str(HERE / "haproxy.cfg")], ports)
        self._wait("proxy")
        tell(f"HAProxy listens at http://127.0.0.1:{self._ports['proxy']}")

    def start(self, name: str) -> None:
        """Start a node again, as its supervisor would."""
        self._begin(name)
        self._wait(name)
        tell(f"{name} runs again")

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    def _begin(self, name: str) -> None:
        command = [sys.executable, "-m", "nodekit.cli", "serve", str(HERE / "node.toml"), "--log-level", "warning"]
        self._run(name, command, {"NODE": name, "PORT": str(self._ports[name])})

    def _run(self, name: str, command: list[str], env: Mapping[str, str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own commands; Ctrl-C is for the demo
                command,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[name] = process
        self._stack.callback(ended, process)

    def _wait(self, name: str) -> None:
        """Wait until something answers well at a port."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and self._processes[name].poll() is None:
            with suppress(OSError, HTTPException):
                if ask(self._ports[name], "GET", "/health")[0] == 200:
                    return
            time.sleep(0.05)
        log = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()[-10:]
        raise DemoFailed(f"{name} does not run:\n  " + "\n  ".join(log))

    def job(self, number: int) -> Any:
        """Submit a job and wait for its result. A request that fails is repeated with its key: it stays one job."""
        headers = {"Idempotency-Key": f"picture-{number}", "Prefer": "wait=50", "Content-Type": "application/json"}
        body = json.dumps({"containers": STEPS, "data": {"picture": number}})
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and not self.ending.is_set():
            with suppress(OSError, HTTPException):
                status, answer = ask(self._ports["proxy"], "POST", "/api/jobs", body, headers)
                if status == 200 and "status" in answer:
                    return answer
                if status not in (200, 202, 502, 503, 504):
                    raise DemoFailed(f"job {number}: HTTP status {status}: {answer}")
            time.sleep(0.1)
        raise DemoFailed(f"job {number} has no result after {SECONDS:g} s")

    def _nodes(self) -> list[Any]:
        """Return what the engine knows of the nodes."""
        for name in NODES:
            with suppress(OSError, HTTPException):
                status, answer = ask(self._ports[name], "GET", "/-/cluster/")
                if status == 200:
                    nodes: list[Any] = answer["nodes"]
                    return nodes
        return []

    def in_flight(self, name: str) -> int:
        return sum(node["in_flight"] for node in self._nodes() if node["name"] == name)

    def state(self) -> str:
        """Return in a line what the nodes do, and what they have taken over."""
        nodes = self._nodes()
        parts = [f"{node['name']} {node['in_flight']}" if node["live"] else f"{node['name']} gone" for node in nodes]
        over = {node["name"]: node["takeovers"] for node in nodes if node["takeovers"]}
        return f"in flight: {', '.join(sorted(parts))}" + (f"; taken over: {told(over)}" if over else "")

    def report(self) -> str:
        command = [sys.executable, "-m", "nodekit.cli", "cluster", str(HERE / "node.toml")]
        env = {**os.environ, "NODE": "none"}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout  # noqa: S603


def ask(port: int, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None) -> Any:
    """Send a request; return the status, and the JSON of the reply or its text."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body, dict(headers or {}))
        reply = connection.getresponse()
        text = reply.read().decode()
    finally:
        connection.close()
    with suppress(ValueError):
        return reply.status, json.loads(text)
    return reply.status, text


def ended(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process, and wait for its end."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    main()
