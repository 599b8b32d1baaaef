"""A writer for TOML with comments. Everything it writes reads back unchanged."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from nodekit_infernet._shapes import is_list, is_table

WIDTH = 100

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile(r'[\x00-\x1f"\\\x7f]')
_SHORT = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}
_NO_COMMENT = re.compile(r"[\x00-\x1f\x7f]")


def document(tables: Mapping[str, Any], comments: Mapping[str, Sequence[str]]) -> str:
    """Return the tables as TOML, each key and table under its comments.

    `comments` are by key path. Those under ``""`` come first.
    """
    lines = [*_commented(comments.get("", ()))]
    for key, value in tables.items():
        if is_table(value):
            lines += ["", *_commented(comments.get(key, ())), f"[{_key(key)}]", *_body(value, key, _key(key), comments)]
        elif _is_tables(value):
            lines += _tables(value, key, _key(key), comments)
        else:  # goes before all tables, because otherwise it would belong to one of them
            lines = [f"{_key(key)} = {inline(value)}", *lines]
    return "\n".join(lines).strip("\n") + "\n"


def inline(value: Any) -> str:
    """Return a value as TOML in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return f'"{_ESCAPED.sub(lambda found: _escaped(found[0]), value)}"'
    if is_table(value):
        items = [f"{_key(key)} = {inline(one)}" for key, one in value.items()]
        return f"{{ {', '.join(items)} }}" if items else "{}"
    if is_list(value):
        return f"[{', '.join(map(inline, value))}]"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _body(table: Mapping[str, Any], where: str, header: str, comments: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the keys, and then the tables in lists, because a key after those would belong to them."""
    for key, value in table.items():
        if not _is_tables(value):
            yield from _commented(_below(comments, f"{where}.{key}"))
            yield f"{_key(key)} = {inline(value)}"
    for key, value in table.items():
        if _is_tables(value):
            yield from _tables(value, f"{where}.{key}", f"{header}.{_key(key)}", comments)


def _tables(
    values: Sequence[Mapping[str, Any]], where: str, header: str, comments: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    for number, value in enumerate(values):
        yield ""
        yield from _commented(comments.get(f"{where}[{number}]", ()))
        yield f"[[{header}]]"
        yield from _body(value, f"{where}[{number}]", header, comments)


def _below(comments: Mapping[str, Sequence[str]], where: str) -> Iterator[str]:
    """Yield the comments of a key and of all keys inside its inline value."""
    for path, lines in comments.items():
        if path == where or path.startswith(f"{where}."):
            yield from lines


def _commented(texts: "Sequence[str] | Iterator[str]") -> Iterator[str]:
    for text in texts:
        indent = text[: len(text) - len(text.lstrip(" "))]
        plain = _NO_COMMENT.sub(lambda found: _escaped(found[0]), text.strip(" "))
        for number, line in enumerate(textwrap.wrap(plain, WIDTH, break_long_words=False, break_on_hyphens=False)):
            yield f"# {indent}{'  ' if number and indent else ''}{line}"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else inline(key)


def _escaped(letter: str) -> str:
    return _SHORT.get(letter) or f"\\u{ord(letter):04x}"


def _is_tables(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return is_list(value) and bool(value) and all(map(is_table, value))
