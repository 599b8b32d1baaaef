"""The step from JSON to `InfernetConfig`, as lenient as Infernet.

Numbers and booleans may be texts, and unknown keys cause only a notice.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import msgspec

from nodekit import CompositionError, Problem, Secret
from nodekit_infernet._config import InfernetConfig
from nodekit_infernet._shapes import is_list, is_table

MAX_FILE_BYTES = 1 << 20
MOST_ENTRIES = 1000
"""Number of containers that are read, so that a file of any kind is read in a moment."""
MAX_DIGITS = 100
"""No number of a configuration has more; amounts of tokens have up to 78."""

_TRUE = ("true", "t", "yes", "y", "on", "1")
_FALSE = ("false", "f", "no", "n", "off", "0")
_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "a text",
}


class Read(msgspec.Struct, frozen=True):
    """The contents of a file.

    - `given`: The key paths in the file.
    - `unknown`: The key paths that Infernet does not know either.
    - `problems`: The values that are wrong. The configuration has defaults in their place, so that the rest of it can
      be checked, too.
    """

    config: InfernetConfig
    path: Path
    given: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_config(path: Path) -> Read:
    """Read the file. Raise `CompositionError` if it is no JSON object that can be read at all."""
    read, reader = _json(path), _Reader()
    reader.problems += _keys_twice(read)
    config = reader.table(read, InfernetConfig, "") or InfernetConfig()
    return Read(config, path, frozenset(reader.given), tuple(reader.unknown), tuple(reader.problems))


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            text = f"is larger than {MAX_FILE_BYTES} bytes; is it an Infernet config.json?"
            raise CompositionError(Problem(str(path), text))
        read = json.loads(
            data.decode("utf-8-sig"), parse_constant=_no_number, parse_int=_whole, object_pairs_hook=_Object
        )
        json.dumps(read, ensure_ascii=False).encode()  # fails for half a surrogate pair, which nothing else accepts
    except OSError as error:
        raise CompositionError(Problem(str(path), f"cannot be read: {error.strerror}")) from error
    except _TooLarge as error:
        raise CompositionError(Problem(str(path), f"has a whole number of more than {MAX_DIGITS} digits")) from error
    except RecursionError as error:
        raise CompositionError(
            Problem(str(path), "is JSON that is nested too deep; no setting is nested more than 4 deep")
        ) from error
    except ValueError as error:
        # a JSON error has only a position, but the error of a decoder may contain some of the text
        place = f" at line {error.lineno}: {_cure(error)}" if isinstance(error, json.JSONDecodeError) else ""
        raise CompositionError(Problem(str(path), f"is not JSON in UTF-8{place}")) from error
    if not is_table(read):
        raise CompositionError(Problem(str(path), "expected an object: an Infernet config.json"))
    return read


def _cure(error: json.JSONDecodeError) -> str:
    """Return what is wrong, for what people write although JSON has none of it, and Infernet takes none either."""
    rest, before = error.doc[error.pos :].lstrip(), error.doc[: error.pos].rstrip()
    if rest.startswith(("//", "/*", "#")):
        return "a comment; JSON has none, remove it"
    is_behind = rest.startswith(",") and rest[1:].lstrip()[:1] in "}]"  # newer Pythons report the comma itself
    if is_behind or (rest.startswith(("}", "]")) and before.endswith(",")):
        return "a comma behind the last value; remove it"
    if rest.startswith("'"):
        return 'texts stand in double quotes: "…"'
    return error.msg


class _Object(dict[str, Any]):
    """An object of JSON, and the keys that it has more than once. As elsewhere, the last value counts."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        count = Counter(key for key, _ in pairs) if len(self) < len(pairs) else Counter[str]()
        self.twice = [key for key, number in count.items() if number > 1]


def _keys_twice(read: Any) -> Iterator[Problem]:
    """Yield a problem for each key that is there more than once: nobody can tell which value is meant."""
    left: list[tuple[str, Any]] = [("", read)]
    while left:
        where, value = left.pop()
        below = f"{where}." if where else ""
        if isinstance(value, _Object):
            yield from (
                Problem(f"{below}{key}", "this key is there twice; remove one of the two") for key in value.twice
            )
            left += reversed([(f"{below}{key}", one) for key, one in value.items()])
        elif is_list(value):
            left += reversed([(f"{where}[{number}]", one) for number, one in enumerate(value)])


class _TooLarge(Exception):
    pass


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _TooLarge
    return int(digits)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class _Reader:
    """A reader that goes key by key, so that it finds every problem and unknown key. It never shows values."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.given: list[str] = []
        self.unknown: list[str] = []

    def table(self, value: Any, struct: type[msgspec.Struct], where: str) -> Any:
        if not is_table(value):
            self.problem(where, "expected an object")
            return None
        fields = {field.name: field for field in msgspec.structs.fields(struct)}
        below = f"{where}." if where else ""
        self.given += [f"{below}{key}" for key in value]
        self.unknown += [f"{below}{key}" for key in value if key not in fields]
        found: dict[str, Any] = {}
        for name, field in fields.items():
            if value.get(name) is not None:
                if (read := self.value(value[name], field.type, f"{below}{name}")) is not None:
                    found[name] = read
            elif field.required:
                self.problem(f"{below}{name}", "is missing")
        return struct(**found) if all(name in found for name, field in fields.items() if field.required) else None

    def value(self, value: Any, kind: Any, where: str) -> Any:
        if struct := _struct(kind):
            return self.table(value, struct, where)
        if inner := _structs(kind):
            if is_list(value) and len(value) > MOST_ENTRIES:
                self.problem(where, f"has {len(value)} entries, at most {MOST_ENTRIES} are read; is it the right file?")
                return None
            if is_list(value):
                return tuple(self.item(one, inner, f"{where}[{number}]", number) for number, one in enumerate(value))
            self.problem(where, "expected a list")
            return None
        try:
            return msgspec.convert(_plain(value, kind), kind, strict=False, dec_hook=_secret)
        except msgspec.ValidationError as error:
            self.problem(*_explained(where, str(error)))
            return None

    def item(self, value: Any, struct: type[msgspec.Struct], where: str, number: int) -> Any:
        """Return an entry of a list. A bad one keeps its place, so that the numbers of the others are right."""
        if (read := self.table(value, struct, where)) is not None:
            return read
        rest = {**value, "id": f"entry-{number}"} if is_table(value) else {"id": f"entry-{number}"}
        return _Reader().table(rest, struct, where) or struct(id=rest["id"])

    def problem(self, where: str, text: str) -> None:
        self.problems.append(Problem(where, text))


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    """Return the Struct of a type that is a Struct, or a Struct or None."""
    return next(_structs_among((kind, *get_args(kind))), None) if get_args(kind)[1:] != (...,) else None


def _structs(kind: Any) -> type[msgspec.Struct] | None:
    """Return the Struct of the items of a tuple type."""
    return next(_structs_among(get_args(kind)[:1]), None) if get_args(kind)[1:] == (...,) else None


def _structs_among(kinds: tuple[Any, ...]) -> Iterator[type[msgspec.Struct]]:
    return (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct))


def _plain(value: Any, kind: Any) -> Any:
    """Convert texts that Infernet accepts and msgspec does not."""
    if kind is bool and isinstance(value, str):
        text = value.strip().lower()
        return text in _TRUE if text in _TRUE + _FALSE else value
    return value.strip() if isinstance(value, str) and _is_number(kind) else value


def _is_number(kind: Any) -> bool:
    return isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.IntType | msgspec.inspect.FloatType)


def _secret(kind: type[Any], value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise TypeError("expected a text")


def _explained(where: str, text: str) -> tuple[str, str]:
    """Convert an error of msgspec to key path and text: ``Expected `int`, got `str` - at `$[1]```.

    It contains only types, never values.
    """
    text, _, place = text.partition(" - at `$")
    text = re.sub(r"`(\w+)[^`]*`", lambda found: _TYPES.get(found[1], found[1]), text)
    return where + place.rstrip("`"), text[:1].lower() + text[1:]
