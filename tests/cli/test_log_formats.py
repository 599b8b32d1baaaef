"""The formats of the log. In none of them does text of others command a terminal, forge a record, or fill a disk."""

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from nodekit.cli.serve.log.formats import LONGEST_FIELD, LONGEST_RECORD, LogFormatter, formatter

FORGED = "x\x1b[2J\n2026-01-01 00:00:00,000 INFO    nodekit: all is well\r\u202e\u2028\x9b"


def formatted(text: str, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("nodekit.http", logging.ERROR, "", 0, "GET %s failed", (text,), info)
    return LogFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s").format(record)


def test_text_of_others_neither_commands_a_terminal_nor_forges_a_record() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        first, *others = formatted(FORGED, error).split("\n")
    assert first.endswith("ERROR   nodekit.http: GET x\\x1b[2J")
    assert "ValueError: x\\x1b[2J" in "".join(others)
    assert all(line.startswith("  | ") for line in others)
    assert all(line.isprintable() for line in (first, *others))


def test_a_record_has_a_longest_length() -> None:
    text = formatted("y" * 1_000_000)
    assert len(text) < LONGEST_RECORD + 100
    assert text.endswith("more characters)")


@pytest.mark.parametrize("text", ["\x1b\n" * 1_000_000, "\u202e" * 1_000_000])
def test_escapes_do_not_make_a_record_longer(text: str) -> None:
    assert len(formatted(text)) < LONGEST_RECORD + 100


# -- JSON ---------------------------------------------------------------------------------------------


def in_json(text: str, *arguments: Any, name: str = "nodekit.http", error: Any = None, **extra: Any) -> dict[str, Any]:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.WARNING, "", 0, text, arguments, info)
    vars(record).update(extra)
    line = formatter("json").format(record)
    assert line.isprintable()
    found: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    return found


def test_a_record_in_json_has_its_parts_and_what_its_text_is_about() -> None:
    found = in_json("job %s: step %d failed in container %s, 100%%: %.1f (request %s)", "a", 2, "up", 0.5, "r-1")
    assert found.pop("time")[10:11] == "T"
    assert found == {
        "level": "warning",
        "logger": "nodekit.http",
        "message": "job a: step 2 failed in container up, 100%: 0.5 (request r-1)",
        "job": "a",
        "step": 2,
        "container": "up",
        "request_id": "r-1",
    }


@pytest.mark.parametrize("arguments", [(), None, ({"job": "a"},)])
def test_a_record_needs_no_values(arguments: Any) -> None:
    record = logging.LogRecord("nodekit", logging.INFO, "", 0, "%(job)s" if arguments else "100% job", arguments, None)
    assert json.loads(formatter("json").format(record))["message"] == ("a" if arguments else "100% job")


def test_times_are_in_utc() -> None:
    assert in_json("now")["time"].endswith("+00:00")


def test_the_output_of_a_container_names_it() -> None:
    assert in_json("hello", name="nodekit.container.a.b")["container"] == "a.b"


def test_fields_of_the_caller_are_kept_and_the_parts_of_a_record_cannot_be_replaced() -> None:
    found = in_json("x", status=200, level="fine", nothing=None, large=1 << 60, endless=float("inf"), odd={"a": b"1"})
    assert (found["status"], found["level"], found["nothing"]) == (200, "warning", None)
    assert (found["large"], found["endless"], found["odd"]) == (str(1 << 60), "inf", "{'a': b'1'}")


def test_text_of_others_is_safe_also_when_a_value_of_json_is_printed() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        found = in_json("job %s", FORGED, error=error, **{"\x1b[2J": FORGED})
    assert "ValueError: x\\x1b[2J" in found["exception"]
    for key, value in found.items():
        first, *others = value.split("\n")
        assert all(line.isprintable() for line in (key, first, *others))
        assert all(line.startswith("  | ") for line in others)


def test_a_record_in_json_is_bounded() -> None:
    found = in_json("job %s", "\x1b" * 1_000_000, **{f"key{number}": "y" * 10_000 for number in range(1000)})
    assert len(found["message"]) < LONGEST_RECORD + 100
    assert len(found["job"]) == LONGEST_FIELD + 1
    assert len(found) <= 32


def test_structlog_is_imported_for_json_only() -> None:
    code = (
        "import sys; from nodekit.cli.serve.log.node_log import LogHandler as H; H(); print('structlog' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
