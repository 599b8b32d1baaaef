"""The history of a job, for people to read."""

from collections.abc import Iterator
from datetime import datetime

from nodekit_asgi.cli.output import one_line, table
from nodekit_asgi.cli.replies import AttemptRecord, History, StepRecord

HEAD = ("step", "container", "attempt", "began", "took", "instance", "outcome")


def history_lines(history: History) -> Iterator[str]:
    """Yield the lines: the request, its times, and a table of all attempts, whose times count from the acceptance."""
    for name, value in _facts(history):
        yield f"{name:<9} {one_line(value)}"
    rows = [row for number, step in enumerate(history.steps, 1) for row in _rows(number, step, history.accepted_at)]
    if rows:
        yield ""
        yield from table(HEAD, rows)


def _facts(history: History) -> Iterator[tuple[str, str]]:
    more = history.state in ("waiting", "cancelled")  # the other states add nothing to the status
    state = f" ({history.state})" if more else ""
    yield "job", history.id
    yield "status", history.status + state
    if history.retry_of is not None:
        yield "retry of", history.retry_of
    if history.client is not None:
        yield "client", history.client
    yield "pipeline", f"{history.pipeline}: {' -> '.join(history.containers)}"
    yield "priority", str(history.priority)
    yield "accepted", _time(history.accepted_at)
    for name, value in history.meta.items():
        yield "meta", f"{name}: {value}"
    if history.finished_at is not None:
        took = (history.finished_at - history.accepted_at).total_seconds()
        yield "finished", f"{_time(history.finished_at)}, after {_seconds(took)}"
    if history.due is not None:
        yield "next", history.due + (f", not before {_time(history.not_before)}" if history.not_before else "")
    if (failure := history.failure) is not None:
        kind = f" ({failure.kind})" if failure.kind else ""
        yield "failure", f"{failure.container}: {failure.error}{kind}"


def _rows(number: int, step: StepRecord, accepted_at: datetime) -> Iterator[list[str]]:
    for count, attempt in enumerate(step.attempts, 1):
        began = (attempt.started_at - accepted_at).total_seconds()
        place = [str(number), one_line(step.container)] if count == 1 else ["", ""]
        times = [f"{'+' if began >= 0 else ''}{_seconds(began)}", _seconds(attempt.duration_seconds)]
        yield [*place, str(count), *times, one_line(attempt.instance or "-"), one_line(_outcome(attempt))]
    if (call := step.running) is not None:
        place = ["", ""] if step.attempts else [str(number), one_line(step.container)]
        since = f"+{_seconds((call.started_at - accepted_at).total_seconds())}"
        instance, node = one_line(call.instance or "-"), one_line(call.node)
        yield [*place, str(call.attempt), since, "-", instance, f"under way on {node}"]


def _outcome(attempt: AttemptRecord) -> str:
    if attempt.error is None:
        return "an output"
    status = f" {attempt.status}" if attempt.status is not None else ""
    return f"{attempt.kind or 'error'}{status}: {attempt.error}"


def _time(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")


def _seconds(seconds: float) -> str:
    if seconds < 0:  # an attempt of the job that this one retries
        return f"-{_seconds(-seconds)}"
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds:.0f} s"
