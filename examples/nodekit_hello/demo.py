"""The command `nodekit demo`: it starts a node with the hello containers, sends it jobs, and leaves no trace."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import click

STEPS = ("tokenise", "count", "rank")
START_SECONDS = 60.0
JOB_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02
LOG_LINES = 20

_HERE = Path(__file__).parent
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.db", "*.db-*")  # jobs of a node that ran there


class DemoFailed(Exception):
    """The demo cannot go on. The message says why."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=_HERE / "node.toml")
def demo(file: Path) -> None:
    """Run the bundled node: jobs over real HTTP, with every step as it happens.

    FILE is the node file of another one with the containers tokenise, count and rank, and one transport.

    It needs a minute at most, a free port on 127.0.0.1 and a temporary folder, a copy of FILE's. It leaves nothing
    behind. Exits with 0 when every job was a success and the node stopped cleanly.
    """
    with _signals_as_exceptions(), tempfile.TemporaryDirectory(prefix="nodekit-demo-") as temporary:
        folder = Path(temporary) / "hello"
        shutil.copytree(file.parent, folder, ignore=_LEFT_OUT)
        node = _Node(folder / file.name)
        try:
            with node:
                _show(node, (_HERE / "text.txt").read_text(encoding="utf-8"))
            click.echo(click.style("✓", fg="green") + " the node has stopped; its folder is removed")
        except (DemoFailed, OSError, HTTPException) as error:
            click.echo(f"nodekit demo: {error or type(error).__name__}", err=True)
            for line in node.log()[-LOG_LINES:]:
                click.echo(f"  | {line}", err=True)
            sys.exit(1)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into exceptions, so that they clean up as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        sys.exit(128 + number)

    with _handled_by(stop, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handled_by(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class _Node:
    """A process that runs `nodekit serve`. Its methods raise `DemoFailed`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._log = file.with_name("node.log")
        self._out = file.with_name("node.out")
        self.url = ""

    def __enter__(self) -> Self:
        began = time.monotonic()
        command = [sys.executable, "-m", "nodekit.cli", "serve", str(self._file)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command; its own session, so that Ctrl-C is ours
                [*command, "--bind", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={**os.environ, "PATH": path},
                start_new_session=True,
            )
        try:
            self.url = _until(self._listening, START_SECONDS, "the node does not listen")
            click.echo(f"{click.style('✓', fg='green')} a node listens on {self.url} ({_since(began).strip()})")
        except BaseException:  # standard output may refuse the line
            self._end()
            raise
        return self

    def _listening(self) -> str | None:
        if (code := self._process.poll()) is not None:
            raise DemoFailed(f"the node did not start (exit code {code})")
        lines = self._out.read_text(encoding="utf-8").splitlines(keepends=True)
        urls = [line.split()[-1] for line in lines if line.startswith("listening on ") and line.endswith("\n")]
        return urls[0] if urls else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self._end()
        if code and error is None:
            raise DemoFailed(f"the node did not stop cleanly (exit code {code})")

    def _end(self) -> int:
        """Stop the process and return its exit code. Signals from the user are ignored meanwhile."""
        with _handled_by(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._process.terminate()
            try:
                return self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return self._process.wait()

    def log(self) -> list[str]:
        """Return the lines of its log so far."""
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the JSON of its reply. Raise `DemoFailed` if the status is not 200."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=JOB_SECONDS)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read().decode()
        finally:
            connection.close()
        if reply.status != 200:
            raise DemoFailed(f"{method} {path}: HTTP status {reply.status}: {text}")
        return json.loads(text)

    def jobs(self, ids: list[str]) -> list[Any]:
        """Return jobs with the results of their steps so far."""
        query = urlencode([*(("id", id) for id in ids), ("intermediate", "true")])
        answer: list[Any] = self.ask("GET", f"/api/jobs?{query}")
        return answer


# -- output ---------------------------------------------------------------------------------------


def _show(node: _Node, text: str) -> None:
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    for container in node.ask("GET", "/info")["containers"]:
        click.echo(f"  {click.style(container['id'], bold=True):<20} {container['description']}")
    _show_one(node, text)
    _show_batch(node, paragraphs)


def _show_one(node: _Node, text: str) -> None:
    click.echo(f"\nOne job of three steps: POST /api/jobs, containers {' → '.join(STEPS)}")
    began = time.monotonic()
    id = node.ask("POST", "/api/jobs", {"containers": STEPS, "data": {"text": text}})["id"]
    shown = 0

    def finished() -> Any:
        nonlocal shown
        (job,) = node.jobs([id])
        results = _results(job)
        for result in results[shown:]:
            click.echo(f"  {_since(began)}  {result['container']:<9} {_gist(result)}")
        shown = len(results)
        return None if job["status"] == "running" else job

    job = _until(finished, JOB_SECONDS, f"job {id} does not finish")
    _check(job)
    top = job["result"]["output"]["top"]
    width = max(len(entry["word"]) for entry in top)
    for entry in top:
        bar = click.style(f"{entry['bar']:<24}", fg="cyan")
        click.echo(f"    {entry['word']:>{width}} {bar} {entry['count']:>3}  {entry['share']:.1%}")
    click.echo(f"  job {id}: {click.style(job['status'], fg='green')}")


def _show_batch(node: _Node, paragraphs: list[str]) -> None:
    click.echo(f"\nA batch, a job per paragraph: POST /api/jobs/batch, {len(paragraphs)} jobs")
    began = time.monotonic()
    requests = [{"containers": STEPS, "data": {"text": paragraph}} for paragraph in paragraphs]
    answers = node.ask("POST", "/api/jobs/batch", requests)
    if refused := [answer["error"] for answer in answers if "error" in answer]:
        raise DemoFailed(f"refused: {', '.join(refused)}")
    waiting = [answer["id"] for answer in answers]

    def finished() -> bool:
        for job in node.jobs(waiting):
            if job["status"] != "running":
                _check(job)
                waiting.remove(job["id"])
                click.echo(f"  {_since(began)}  job {job['id']}: {click.style(job['status'], fg='green')}  {_top(job)}")
        return not waiting

    _until(finished, JOB_SECONDS, "the batch does not finish")


def _results(job: Any) -> list[Any]:
    return [*job["intermediate_results"], *([job["result"]] if job["result"] else [])]


def _gist(result: Any) -> str:
    if "error" in result:
        return f"error: {result['error']}"
    text = json.dumps(result["output"], ensure_ascii=False)
    return text if len(text) <= 72 else f"{text[:71]}…"


def _top(job: Any) -> str:
    return " ".join(f"{entry['word']}·{entry['count']}" for entry in job["result"]["output"]["top"][:4])


def _check(job: Any) -> None:
    if job["status"] != "success":
        raise DemoFailed(f"job {job['id']}: {job['status']}: {job['result']}")


def _since(began: float) -> str:
    return f"{time.monotonic() - began:5.2f} s"


def _until(check: Callable[[], Any], seconds: float, why: str) -> Any:
    """Ask repeatedly until there is an answer."""
    end = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > end:
            raise DemoFailed(f"{why} within {seconds:g} s")
        time.sleep(POLL_SECONDS)
    return answer
