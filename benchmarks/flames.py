"""The flame graph of a node under load, and its processor time by layer.

    python benchmarks/flames.py [--server uvicorn] [--store sqlite] [--steps 1] [--seconds 10] [--picture FILE.svg]

py-spy samples the node while jobs come from 32 clients. The samples of a thread share the processor time that it used
per job, as the system has counted it: a sampler cannot tell well which threads wait. A sample belongs to the layer of
the innermost function that is part of one.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "support")]

from load import Jobs  # noqa: E402 - found only now
from processes import BenchError  # noqa: E402
from running import count_for, once  # noqa: E402
from subjects import PEER, STORES, Kind  # noqa: E402
from svg import svg  # noqa: E402

LAYERS = {
    "call of the container": r"nodekit_remote/|aiohttp/|yarl/|multidict/|aiosignal/|aiohappyeyeballs/",
    "HTTP in": r"nodekit_asgi/|uvicorn/|hypercorn/|h11/",
    "store": r"nodekit_sqlite/|nodekit_memory/|nodekit/embedded/",
    "core": r"nodekit/(?!cli/)|nodekit_guardian/",
    "event loop": r"asyncio/|anyio/|selectors\.py|sniffio/",
}
"""Paths of each layer, in this order; modules that are part of none belong to the function that called them."""
COLOURS = dict(zip(LAYERS, ("#d9730d", "#0969da", "#1a7f37", "#8250df", "#8c959f"), strict=True))
Stack = tuple[str, ...]
"""Functions, outermost first: `name path:line`."""

FIRST = ("BaseEventLoop._run_once ", "Thread.run ")
"""Functions with which stacks begin; those that call them say nothing."""
WAITING = ("Writer._next", "Condition.wait", "Turns.take")
"""Functions in which threads wait for work."""

WIDTH, ROW, TOP, LEAST = 1000, 15, 24, 0.004
"""Sizes of the picture, and the part of all samples below which a function is left out of it."""
STYLE = "\nrect { stroke: #fff; stroke-width: .4 }\n.frames text { font-size: 9px; fill: #000 }"


Samples = dict[Stack, float]
"""Processor time of a job by stack, in µs."""


def sample(kind: Kind, load: Jobs, seconds: float) -> Samples:
    """Run the load for so long, and sample its node."""
    with kind.running() as subject, tempfile.TemporaryDirectory() as folder:
        count = count_for(subject, load, seconds)
        loaded = threading.Thread(target=once, args=(subject, load, count))
        used = subject.processes[0].thread_seconds()
        loaded.start()
        output = Path(folder) / "stacks"
        process, length = str(subject.processes[0].pid), str(round(seconds))
        command = [str(PEER / "bin" / "py-spy"), "record", "--pid", process, "--duration", length, "--rate", "200"]
        command += ["--format", "raw", "--threads", "--function", "--full-filenames", "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        loaded.join()
        spent = {thread: now - used.get(thread, 0.0) for thread, now in subject.processes[0].thread_seconds().items()}
        if done.returncode:
            raise BenchError(f"py-spy: {done.stderr}")
        used_by_job = {thread: seconds * 1e6 / count for thread, seconds in spent.items()}
        return samples(output.read_text(encoding="utf-8"), used_by_job)


def samples(text: str, used: dict[int, float]) -> Samples:
    """Return the samples in the output of py-spy, with short paths. `used` has the processor time of each thread."""
    threads: dict[int, Counter[Stack]] = {}
    for line in text.splitlines():
        frames, _, number = line.rpartition(" ")
        thread, *stack = frames.split(";")
        for first in FIRST:
            stack = stack[next((place for place, frame in enumerate(stack) if frame.startswith(first)), 0) :]
        if not any(stack[-1].startswith(name) for name in WAITING):
            found = re.search(r"\d+", thread)
            assert found, thread
            threads.setdefault(int(found[0]), Counter())[tuple(map(short, stack))] += int(number)
    result: Samples = {}
    for thread_id, stacks in threads.items():
        each = used.get(thread_id, 0.0) / stacks.total()
        for stack, times in stacks.items():
            result[stack] = result.get(stack, 0.0) + times * each
    return result


def short(frame: str) -> str:
    """Return `name path` with the path below the checkout, the packages or the standard library."""
    name, _, path = frame.partition(" (")
    path = re.sub(r"^.*(site-packages/|/lib/python3\.\d+/|/plugins/)|^.*(?=/nodekit/)/", "", path.rstrip(")"))
    return f"{name} {path}"


def layer(stack: Stack) -> str:
    """Return the layer of the innermost function that is part of one."""
    for frame in reversed(stack):
        for name, pattern in LAYERS.items():
            if name != "event loop" and re.search(rf" (?:{pattern})", frame):
                return name
    return "event loop"


def by_layer(samples: Samples) -> Iterator[str]:
    """Yield a table in Markdown: the µs of each layer, and the functions in which most of them are spent."""
    total = sum(samples.values())
    yield f"| layer | µs per job, of {total:,.0f} | share | most in |\n|---|---|---|---|"
    for name in LAYERS:
        inner: dict[str, float] = {}
        for stack, used in samples.items():
            if layer(stack) == name:
                function = stack[-1].partition(" ")[0]
                inner[function] = inner.get(function, 0.0) + used
        most = ", ".join(f"`{function}`" for function in sorted(inner, key=lambda one: -inner[one])[:4])
        yield f"| {name} | {sum(inner.values()):,.0f} | {sum(inner.values()) / total:.0%} | {most} |"


def flames(samples: Samples, title: str) -> str:
    """Draw the stacks, outermost functions above, coloured by layer. The title of a box has its time."""
    total = sum(samples.values())
    parts, depths = [f'<text class="title" x="4" y="15">{escape(title)}</text><g class="frames">'], [0]

    def draw(at: float, depth: int, samples: Samples) -> None:
        children: dict[str, Samples] = {}
        for stack, used in samples.items():
            if len(stack) > depth:
                children.setdefault(stack[depth], {})[stack] = used
        for frame, inside in sorted(children.items()):
            used = sum(inside.values())
            if used >= LEAST * total:
                parts.append(_box(frame, at / total, TOP + depth * ROW, used / total, used))
                depths.append(depth + 1)
                draw(at, depth + 1, inside)
            at += used

    draw(0.0, 0, samples)
    parts.append("</g>")
    return svg(WIDTH, TOP + max(depths) * ROW + 4, title, STYLE, parts)


def _box(frame: str, at: float, y: int, share: float, used: float) -> str:
    name, _, path = frame.partition(" ")
    colour = COLOURS.get(next((one for one, paths in LAYERS.items() if re.match(paths, path)), ""), "#bf8700")
    x, width = at * WIDTH, share * WIDTH
    shown = name[: int(width / 5.2)] if width > 16 else ""
    label = f'<text x="{x + 2:.1f}" y="{y + 11}">{escape(shown)}</text>' if shown else ""
    return (
        f'<g><title>{escape(frame)}: {used:.1f} µs</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW}" '
        f'fill="{colour}" fill-opacity=".45"/>{label}</g>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=["uvicorn", "hypercorn"], default="uvicorn")
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if not (PEER / "bin" / "py-spy").exists():
        sys.exit("no py-spy: make .venv-bench/.installed")
    kind = Kind(asked.server, server=asked.server, store=asked.store)
    try:
        found = sample(kind, Jobs(steps=asked.steps, batch=asked.batch), asked.seconds)
    except BenchError as error:
        sys.exit(str(error))
    print("\n".join(by_layer(found)))
    if asked.picture:
        title = f"{asked.server}, {asked.store}, steps of a job: {asked.steps}, jobs of a request: {asked.batch}"
        asked.picture.write_text(flames(found, title), encoding="utf-8")


if __name__ == "__main__":
    main()
