"""The formats of the log: text for people, and JSON for programs.

This is the one place through which all that `nodekit serve` logs must pass. No text of clients, containers or engines
commands a terminal, forges a record, or is longer than `LONGEST_RECORD`, also where somebody prints a value of JSON.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

from nodekit.config.log_settings import CONTAINER
from nodekit.foreign_text import printable, printable_lines
from nodekit.model.counting import counted

LONGEST_RECORD = 64 * 1024
"""Maximum number of characters of a record, its traceback included."""
LONGEST_FIELD = 1000
MOST_FIELDS = 32
_LARGEST = 1 << 53
"""Numbers from here on are texts, as infinity and NaN are: not every reader of JSON takes them."""
CONTINUED = "\n  | "
"""Begin of each further line of a text, so that no text of others looks like a record of its own."""
TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_NAMES = "job|container|request|step|attempt|client|node|image|plugin|pipeline"
_NAMED = re.compile(rf"%(%)|(?:\b({_NAMES}) )?%[-#0 +]*[\d.]*[a-z]")
_FIELDS = {"request": "request_id"}
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""Attributes that every record has; the others are fields that the caller gave as `extra`."""


class LogFormatter(logging.Formatter):
    """A formatter of records as text."""

    def format(self, record: logging.LogRecord) -> str:
        return safe_text(super().format(record).rstrip("\n"))


def safe_text(text: str) -> str:
    """Return a text of others, of a bounded length, in lines that no reader takes for records."""
    whole = printable_lines(text[: LONGEST_RECORD + 1]).replace("\n", CONTINUED)
    if len(text) <= LONGEST_RECORD >= len(whole):
        return whole
    return f"{whole[:LONGEST_RECORD]}… ({counted(max(len(text), len(whole)) - LONGEST_RECORD, 'more character')})"


def json_formatter() -> logging.Formatter:
    """Return a formatter of records as JSON, an object in a line. structlog is imported only here."""
    from structlog.processors import ExceptionRenderer, JSONRenderer
    from structlog.stdlib import ProcessorFormatter

    return ProcessorFormatter(
        foreign_pre_chain=[_described],
        processors=[
            ProcessorFormatter.remove_processors_meta,
            ExceptionRenderer(),
            _made_safe,
            JSONRenderer(serializer=json.dumps, ensure_ascii=False),
        ],
        pass_foreign_args=True,
    )


def _described(logger: logging.Logger, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the parts of a record, in the order in which they are read."""
    record: logging.LogRecord = event["_record"]
    kept = {key: event[key] for key in ("exc_info", "stack_info") if key in event}
    described: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": event["event"],
    }
    for key, value in fields(record, event.get("positional_args")):
        described.setdefault(key, value)
    return {**described, **kept, "_record": record, "_from_structlog": event["_from_structlog"]}


def fields(record: logging.LogRecord, arguments: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a record is about: what it was given as `extra`, and the values that its text names.

    ``"job %s: step %d failed"`` names a job and a step.
    """
    if record.name.startswith(f"{CONTAINER}."):
        yield "container", record.name.removeprefix(f"{CONTAINER}.")
    if isinstance(record.msg, str) and arguments and not isinstance(arguments, Mapping):
        places = [found for found in _NAMED.finditer(record.msg) if not found[1]]
        for place, value in zip(places, arguments, strict=False):
            if place[2]:
                yield _FIELDS.get(place[2], place[2]), value
    for key, value in vars(record).items():
        if key not in _OWN and not key.startswith("_"):
            yield key, value


def _made_safe(logger: logging.Logger, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Return the event with safe and bounded values."""
    safe: dict[str, Any] = {}
    for key, value in list(event.items())[:MOST_FIELDS]:
        name = printable(str(key)[:LONGEST_FIELD], keep="")
        if isinstance(value, bool | int | float) or value is None:
            safe[name] = (
                value if abs(value or 0) < 1 << 53 else str(value)
            )  # JSON has no NaN, and not every reader more
        elif key in ("message", "exception", "stack"):
            safe[name] = safe_text(str(value))
        else:
            text = safe_text(str(value))
            safe[name] = text if len(text) <= LONGEST_FIELD else f"{text[:LONGEST_FIELD]}…"
    return safe


def formatter(name: str) -> logging.Formatter:
    """Return the formatter of a format of the node file."""
    return FORMATTERS[name]()


FORMATTERS: Mapping[str, Callable[[], logging.Formatter]] = {
    "text": lambda: LogFormatter(TEXT),
    "json": json_formatter,
}
