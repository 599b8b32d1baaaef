"""Explanations of what is no TOML, made from the messages of `tomllib`: the place in the file, and what to write."""

import re
from collections.abc import Iterator, Sequence

from nodekit.config.file_limits import STRING

_LISTS = ("runners", "runners.containers", "transports", "pipelines", "plugins")
_TABLES = ("node", "store", "log")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SMART_QUOTE = re.compile("[“”„‟‘’‚‛«»]")
_HEADING = re.compile(r"(?=.*[\[\]])[\s\[]*([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)[\s\]]*(?:#.*)?$")
"""A line with the name of a table, whatever its brackets are."""
_TWICE = re.compile(r"Cannot declare \((.*?),?\) twice")

_ANY_TABLE = "[table], or [[table]] for a list of tables,"
_STATEMENT = "write key = value, or [table]"
_SEVERAL_LINES = 'in the same line, or write """…""" for a text of several lines'
_INLINE = "an inline table {…} stands in one line, with a comma between its keys and none behind the last one"
_BACKSLASH = "put a text with backslashes in single quotes"
_THERE = "this key is there already; remove one of the two"
_QUOTES = 'a text needs quotes, as in "…"'

_CURES: Sequence[tuple[str, str, str]] = (
    ("", r"[\u00a0\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]", "remove this character, which nobody sees"),
    ("", r"\r", "end lines with LF or CRLF: save the file anew with one of them"),
    ("Expected newline", r"[\]}]", "remove it: it closes nothing"),
    ("Expected newline", r"[,;]", "remove it, and write each key = value in a line of its own"),
    ("(Invalid|Expected)", r"//|/\*|;|--", "a comment begins with #"),
    ("Invalid statement", r"<{7}|>{7}", "a merge has left its marks; remove them, and one of the two versions"),
    ("Invalid statement", r"\{", "a node file is TOML, not JSON: write key = value, and [table]"),
    ("Expected '=' after a key", r":?=|:", "write = in place of :"),
    ("Expected '=' after a key", r"[^\x00-\x7f]", 'a key with letters other than A to Z stands in quotes: "…" = value'),
    ("(Invalid statement|Expected '=' after a key)", "", _STATEMENT),
    ("Invalid value", r"\s*(#|$)", "the value is missing: write it behind the =, in the same line"),
    ("Invalid value", r"=", "write one ="),
    ("Invalid value", r"(?i)(true|false|yes|no|on|off)\b", "write true or false, in lower case"),
    ("Invalid value", r"(?i)(null|nil|none)\b", "leave the key out; there is no such value in TOML"),
    ("Invalid value", r"[+-]?\.\d", "write a digit before the dot"),
    ("Invalid value", "", f"{_QUOTES}; true and false are written in lower case"),
    ("Expected newline", r"[\"']|[A-Za-z_-]+\s*=", "write each key = value in a line of its own"),
    ("Expected newline", "", f"{_QUOTES}; a number has no unit and no 0 before it"),
    (r"(Illegal|Found invalid) character '\\n'", "", f"the text has no end: close it {_SEVERAL_LINES}"),
    (
        "(Illegal|Found invalid) character",
        "",
        r"remove it, or write it as \u and four hexadecimal digits in double quotes",
    ),
    ("(Unterminated string|Expected [\"']'{1,3}[\"'])", "", f"close the text {_SEVERAL_LINES}"),
    ("Unclosed array", "", "write a comma between the values of a list, and ] behind the last one"),
    ("(Unclosed inline table|Invalid initial character for a key part)", "", _INLINE),
    (r"(Unescaped '\\'|Invalid hex value|Escaped character)", "", _BACKSLASH),
    ("(Cannot|Duplicate)", "", _THERE),
)
"""Beginnings of messages, what stands at their place, and cures; the first that fits both counts."""


def explained(message: str, text: str) -> str:
    """Return a message of `tomllib` about a text in terms of the file: with line, column and a cure."""
    text = text.replace("\r\n", "\n")  # as tomllib counts
    found = _PLACE.search(message)
    fault = message[: found.start()] if found else message
    if found is None or found[1] is None:
        at = next(_unclosed(text), len(text))
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        place = f"(it begins at line {line}, column {column})" if at < len(text) else "(at the end)"
        fault = "Unclosed array" if text.startswith("[", at) else fault
    else:
        line, column = int(found[1]), int(found[2])
        place = f"(at line {line}, column {column})"
    if twice := _TWICE.match(fault):
        name = ".".join(re.findall(r"'([^']*)'", twice[1]))
        return f"the table [{name}] is there twice {place}; remove one of the two"
    cure = _cure(fault, "".join(text.split("\n")[line - 1 : line]), column)
    return f"{fault} {place}; {cure}" if cure else f"{fault} {place}"


def _cure(fault: str, line: str, column: int) -> str:
    rest = line[column - 1 :]
    if _SMART_QUOTE.match(rest) or (not rest and _SMART_QUOTE.search(line)):
        return 'quotes are straight: write "…"'
    if not fault.startswith(("Invalid value", "Cannot", "Unclosed")):
        if heading := _HEADING.match(line):
            return _cure_of_heading(heading[1])
        if line.lstrip().startswith("["):
            return f"write {_ANY_TABLE} in a line of its own"
    return next((cure for said, at, cure in _CURES if re.match(said, fault) and re.match(at, rest)), "")


def _cure_of_heading(name: str) -> str:
    """Return how the name of a table is written."""
    if name in _LISTS:
        return f"there may be several of these: write [[{name}]]"
    written = f"[{name}]" if name in _TABLES else _ANY_TABLE.replace("table]", f"{name}]")
    return f"write {written} in a line of its own"


def _unclosed(text: str) -> Iterator[int]:
    """Yield the places of a text or a list that has no end, the first one first."""
    for found in STRING.finditer(text):
        quotes = re.match(r"\"\"\"|'''|'", found[0])
        if quotes and (len(found[0]) < 2 * len(quotes[0]) or not found[0].endswith(quotes[0])):
            yield found.start()
    plain = STRING.sub(lambda found: " " * len(found[0]), text)
    opened: list[int] = []
    for found in re.finditer(r"[\[\]{}]", plain):
        if found[0] in "[{":
            opened.append(found.start())
        elif opened:
            opened.pop()
    yield from opened
