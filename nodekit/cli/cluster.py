"""`nodekit cluster`."""

from collections.abc import Iterator, Sequence

import click
import msgspec

from nodekit.cli.store.node_store import run, store_of
from nodekit.errors import NodekitError
from nodekit.foreign_text import printable, printable_json
from nodekit.interfaces.shared_store import is_shared
from nodekit.model.counting import counted
from nodekit.node.cluster_report import ClusterReport, NodeReport, cluster_report


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as /-/cluster/ of a node answers.")
def cluster(file: str, as_json: bool) -> None:
    """Show the nodes on the store of a node file, and the jobs that wait for them.

    No node has to run. Exits with 0, 3 when the table [store] is not valid, 1 when the store fails or is for one node
    only.
    """
    store = store_of(file)

    async def report() -> ClusterReport:
        if not is_shared(store):
            raise NodekitError("this kind of store belongs to one node; a cluster needs one that several nodes share")
        async with store:
            return await cluster_report(store)

    found = run(file, report)
    if as_json:
        click.echo(printable_json(msgspec.json.format(msgspec.json.encode(found))))
    else:
        click.echo("\n".join(_lines(found)))


def _lines(report: ClusterReport) -> Iterator[str]:
    live = [node for node in report.nodes if node.live]
    yield f"{counted(len(live), 'live node')}, {len(report.nodes) - len(live)} gone"
    heads = ("NODE", "INCARNATION", "VERSION", "SEEN", "SKEW", "IN FLIGHT", "CONTAINERS", "PIPELINES")
    yield from _table([heads, *(_row(node) for node in report.nodes)])
    yield ""
    unfinished, takeovers = counted(report.pending, "unfinished job"), counted(report.takeovers, "takeover")
    yield f"{unfinished}, {takeovers}, {report.poison} poison"
    if report.queues:
        rows = [(id, str(state.jobs), _age(state.oldest_seconds)) for id, state in report.queues.items()]
        yield from _table([("CONTAINER", "QUEUED", "OLDEST"), *rows])
    if report.engine:
        yield ""
        yield from _table(
            [("ENGINE", ""), *((name.replace("_", " "), str(fact)) for name, fact in report.engine.items())]
        )


def _row(node: NodeReport) -> tuple[str, ...]:
    seen = f"{_age(node.seen_seconds_ago)} ago" if node.live else f"gone {_age(node.seen_seconds_ago)} ago"
    down = [f"{id} (down)" if node.live else id for id in node.containers if id not in node.running]
    return (
        node.name,
        node.incarnation[:8],
        node.version or "?",
        seen,
        f"{node.skew_seconds:+.2f} s" if abs(node.skew_seconds) < 1e6 else f"{node.skew_seconds:+.0e} s",
        str(node.in_flight),
        ", ".join([*node.running, *down]) or "-",
        ", ".join(node.pipelines) or "-",
    )


def _table(texts: Sequence[Sequence[str]]) -> Iterator[str]:
    rows = [[printable(text, keep="") for text in row] for row in texts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
