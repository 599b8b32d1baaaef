"""Values of environment variables in the texts of a node file: ``${NAME}``.

They are put in after the file was read, so that no value is read as TOML. Problems show the reference, not the value.
"""

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from nodekit.config.shapes import is_list, is_table
from nodekit.errors import Problem
from nodekit.foreign_text import printable

MAX_EXPANDED_BYTES = 1 << 20
"""Most bytes of all texts with references in a file: each may be as long as the largest variable."""
MOST_WHOLE_TEXTS = 1000
"""Maximum number of texts that problems do not show as a whole; of others, they do not show the values."""
HIDDEN_FROM = 8
"""Least length of a value that is replaced anywhere in a problem. A shorter one is replaced as a whole quoted text:
other words would have it in them by chance."""
_PREFIX = 16
"""Number of characters by which a value is recognised in a problem that has cut it."""

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-((?:(?!\$\{)[^}])*))?\})?")
_ONLY_REFERENCES = re.compile(r"(?:\$\{[A-Za-z_][A-Za-z0-9_]*\})+")


class FromEnvironment(str):
    """A text with the value of an environment variable in it."""

    __slots__ = ()


class Values:
    """The tables of a node file with the values of its references, and the texts that problems must not show."""

    def __init__(self, tables: Mapping[str, Any], unusable: Collection[str], *, references: bool = True) -> None:
        self.problems: list[Problem] = []
        self._unusable, self._references = unusable, references
        self._bytes_left = MAX_EXPANDED_BYTES
        self._hidden: dict[str, dict[str, str]] = {}
        """References by the values that they replace, in groups of values with the same begin."""
        self._whole_texts = MOST_WHOLE_TEXTS
        self.tables: dict[str, Any] = {key: self._value(value, key) for key, value in tables.items()}
        """A value with a problem is None there, also one at a key path in `unusable`."""

    def hide(self, text: str) -> str:
        """Return a text with references in place of the values of variables."""
        for begin in sorted((begin for begin in self._hidden if begin in text), key=len, reverse=True):
            text = _without(text, begin, self._hidden[begin])
        return text

    def _value(self, value: Any, where: str) -> Any:
        if where in self._unusable:
            return None
        if isinstance(value, str):
            return self._text(value, where)
        if is_table(value):
            return {key: self._value(one, f"{where}.{key}") for key, one in value.items()}
        if is_list(value):
            return [self._value(one, f"{where}[{number}]") for number, one in enumerate(value)]
        return value

    def _text(self, text: str, where: str) -> str | None:
        if not self._references or "${" not in text:
            return text
        if any(reference[0] == "${" for reference in _REFERENCE.finditer(text)):
            problem = "has ${ without a name, a default that holds no reference, and a }"
            self._problem(where, f"{problem}; write ${{NAME}} for an environment variable, or $${{ for the text ${{")
            return None
        found = len(self.problems)
        expanded = _REFERENCE.sub(lambda reference: self._replaced(reference, where), text)
        if len(self.problems) > found:
            return None
        if has_reference(text):
            self._whole_texts -= 1
            if self._whole_texts >= 0:
                self._hide(expanded, text)
            return FromEnvironment(expanded)
        return expanded

    def _replaced(self, reference: "re.Match[str]", where: str) -> str:
        if reference[0] == "$${":
            return "${"
        name, default = reference[1], reference[2]
        value = os.environ.get(name)
        if default is not None and not value:
            value = default
        if value is None:
            cure = f"set it, or write ${{{name}:-…}} with a default (in a text that is not meant so: $${{{name}}})"
            self._problem(where, f"environment variable {name} is not set; {cure}")
            return ""
        if default is None or value != default:
            self._hide(value, f"${{{name}}}")
        return self._bounded(value, name, where)

    def _bounded(self, value: str, name: str, where: str) -> str:
        try:
            self._bytes_left -= len(value.encode())
        except UnicodeEncodeError:
            self._problem(where, f"environment variable {name} is not UTF-8; set it anew")
            return ""
        if self._bytes_left < 0:
            text = f"has more than {MAX_EXPANDED_BYTES} bytes of environment variables together with all before it"
            self._problem(where, f"{text}; use smaller ones, or fewer references")
            return ""
        return value

    def _hide(self, value: str, reference: str) -> None:
        for form in {value, repr(value)[1:-1], printable(value)}:
            if form:
                self._hidden.setdefault(form[:_PREFIX], {}).setdefault(form, reference)

    def _problem(self, where: str, text: str) -> None:
        if (problem := Problem(where, text)) not in self.problems[-1:]:
            self.problems.append(problem)


def is_reference(text: str) -> bool:
    """Return True if a text of a node file consists of references alone, so that it shows no value."""
    return _ONLY_REFERENCES.fullmatch(text) is not None


def has_reference(text: str) -> bool:
    """Return True if a text of a node file has a reference in it."""
    return "${" in text.replace("$${", "")


def names_in(text: str) -> list[str]:
    """Return the names of the variables that a text of a node file refers to, each once."""
    return list(dict.fromkeys(found[1] for found in _REFERENCE.finditer(text) if found[1]))


def empty_in(text: str) -> list[str]:
    """Return the names of the variables without a default that a text refers to, and that are set and empty."""
    found = (one[1] for one in _REFERENCE.finditer(text) if one[1] and one[2] is None)
    return [name for name in dict.fromkeys(found) if os.environ.get(name) == ""]


def escaped(value: Any) -> Any:
    """Return a value of another source as a node file says it: ``$${`` in place of ``${``."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if is_table(value):
        return {key: escaped(one) for key, one in value.items()}
    return [escaped(one) for one in value] if is_list(value) else value


def expanded(text: str) -> str:
    """Return a text of a valid node file with the values of its references."""
    return str(Values({"": text}, ()).tables[""])


def _without(text: str, begin: str, values: Mapping[str, str]) -> str:
    """Replace values that have a begin in common, also one that a problem has cut."""
    if len(begin) < HIDDEN_FROM:
        quoted = rf"(['\"]){re.escape(begin)}\1"
        return re.sub(quoted, lambda found: f"{found[1]}{values.get(begin, begin)}{found[1]}", text)
    at = 0
    while (at := text.find(begin, at)) >= 0:
        lengths = {value: _common(value, text[at : at + len(value)]) for value in values}
        longest = max(lengths, key=lambda value: lengths[value])
        text = text[:at] + values[longest] + text[at + lengths[longest] :]
        at += len(values[longest])
    return text


def _common(one: str, other: str) -> int:
    """Return the number of characters that two texts have in common at their begin."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
