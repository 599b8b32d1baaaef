"""Conversion of tables to Structs, with every fault of a table instead of the first one."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeAlias, Union, get_args, get_origin

import msgspec

from nodekit.config.explain import explain
from nodekit.config.secrets import Secret
from nodekit.config.shapes import is_list, is_table
from nodekit.config.variables import FromEnvironment
from nodekit.errors import Problem

Hook: TypeAlias = Callable[[type[Any], Any], Any]
Unknown: TypeAlias = Callable[[str, type[Any]], str]
"""Gives the cure for a key that a Struct does not have; empty if there is none."""

MOST_FAULTS = 1000
"""Maximum number of faults that are found in one table. A file has room for a hundred thousand."""
MOST_UNKNOWN = 100
"""Maximum number of unknown names that are reported in one table, since finding the nearest known one takes a while."""
_NUMBERS = (int, float, bool)


class Converted(NamedTuple):
    """A table as a Struct.

    - `value`: The Struct. If there are faults, it is made without the keys that have them; None if it cannot be.
    - `faulty`: The keys of the Struct that have faults.
    """

    value: Any
    problems: list[Problem]
    faulty: Set[str] = frozenset()


class Converter:
    """A converter that knows by `hook` what msgspec does not."""

    def __init__(self, hook: Hook, unknown: Unknown) -> None:
        self._hook = hook
        self._unknown = unknown

    def table(self, table: Any, struct: type[msgspec.Struct], where: str, *, strict: bool) -> Converted:
        """Convert a table. With `strict`, keys that the Struct does not have are faults, whatever the Struct says."""
        if not is_table(table):
            return Converted(None, list(self.faults(table, struct, where)))
        table = plain(table, struct)
        if not strict or table.keys() <= {*struct.__struct_encode_fields__}:
            with suppress(msgspec.ValidationError):
                return Converted(msgspec.convert(table, struct, dec_hook=self._hook), [])
        fields = fields_of(struct)
        config = struct.__struct_config__
        tag = (config.tag_field,) if config.tag_field is not None else ()
        problems: list[Problem] = []
        if strict or config.forbid_unknown_fields:
            extra = [key for key in table if key not in fields and key not in tag]
            for key in islice(extra, MOST_UNKNOWN):
                problems.append(Problem(f"{where}.{key}", f"unknown key{self._unknown(key, struct)}"))
        missing = [name for name, field in fields.items() if field.required and name not in table]
        problems += [Problem(f"{where}.{name}", "is missing") for name in missing if not _misspelt(name, problems)]
        good: dict[str, Any] = {}
        for key, value in table.items():
            if key in fields:
                found = list(islice(self.faults(value, fields[key].type, f"{where}.{key}"), MOST_FAULTS))
                problems += found
                if not found:
                    good[key] = value
        faulty = {key for key in table if key in fields and key not in good} | {*missing}
        required = {key: fields[key].type for key in fields if fields[key].required}
        stand_ins = {key: stand_in(kind) for key, kind in required.items()}
        if any(stand_ins[key] is None for key in faulty if key in required):
            return Converted(None, problems, faulty)
        good |= {key: stand_ins[key] for key in faulty if key in required}
        good |= {key: table[key] for key in table if key in tag}
        value, more = self._checked(good, struct, where, stand_ins, faulty)
        return Converted(value, problems + more, faulty | set(_keys(more, where)))

    def faults(self, value: Any, annotation: Any, where: str) -> Iterator[Problem]:
        """Yield the faults of a value, each with its key path. There is none if it converts."""
        try:
            msgspec.convert(value, annotation, dec_hook=self._hook)
        except msgspec.ValidationError as error:
            below = list(islice(self._below(value, annotation, where), MOST_FAULTS))
            key, text = explain(where, str(error), annotation)
            yield from below or [Problem(key, text + _other_than_a_reference(value))]

    def _below(self, value: Any, annotation: Any, where: str) -> Iterator[Problem]:
        """Yield the faults of the parts of a table or list."""
        kinds = alternatives(annotation)
        if is_table(value):
            if struct := _struct(value, kinds):
                yield from self.table(value, struct, where, strict=False).problems
            elif inner := _inner(kinds, Mapping):
                for key, one in value.items():
                    yield from self.faults(one, inner, f"{where}.{key}")
        elif is_list(value) and (inner := _inner(kinds, list)):
            for number, one in enumerate(value):
                yield from self.faults(one, inner, f"{where}[{number}]")

    def _checked(
        self,
        good: dict[str, Any],
        struct: type[msgspec.Struct],
        where: str,
        stand_ins: Mapping[str, Any],
        faulty: Set[str],
    ) -> tuple[Any, list[Problem]]:
        """Convert a table of values without faults, and return what the Struct's own checks find.

        Such a check reports its first fault. A key with one is left out, or gets its value of `stand_ins` if it is
        required, so that the next fault is found. What may be the consequence of a known fault is not reported.
        """
        problems: list[Problem] = []
        known = set(faulty)
        while True:
            try:
                return msgspec.convert(good, struct, dec_hook=self._hook), problems
            except msgspec.ValidationError as error:
                problem = Problem(*explain(where, str(error), struct))
            key = next(_keys([problem], where), "")
            if not mentions(problem, known):
                problems.append(problem)
            if key not in good or key in known or stand_ins.get(key, "") is None:
                return None, problems
            known.add(key)
            del good[key]
            if key in stand_ins:
                good[key] = stand_ins[key]


def _other_than_a_reference(value: Any) -> str:
    """Return the cure for a reference in place of a value that is no secret, or an empty text."""
    if not is_table(value) or len(value) != 1:
        return ""
    [(key, name)] = value.items()
    if key == "env" and isinstance(name, str):
        return f'; only secrets are given by reference; write "${{{name}}}"'
    return '; only secrets are given by reference; write the value, or "${NAME}"' if key == "file" else ""


def stand_in(annotation: Any) -> Any:
    """Return a value in place of a required one that has a fault, so that the others can be checked, or None."""
    for kind in alternatives(annotation):
        if kind is str:
            return "x"
        if get_origin(kind) in (tuple, list) and get_args(kind)[:1] == (str,):
            return ["x"]
    return None


@lru_cache(maxsize=256)
def fields_of(struct: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """Return the fields of a Struct by their keys."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def plain(value: Any, annotation: Any) -> Any:
    """Return a value without marks of texts from the environment, except where a secret is expected.

    Such a text becomes a number or a truth value where the type has no texts.
    """
    if not _is_marked(value):
        return value
    kinds = alternatives(annotation)
    if isinstance(value, FromEnvironment):
        return _plain_text(value, kinds)
    if is_table(value):
        if struct := _struct(value, kinds):
            fields = fields_of(struct)
            return {key: plain(one, fields[key].type if key in fields else Any) for key, one in value.items()}
        inner = _inner(kinds, Mapping) or Any
        secret = any(isinstance(kind, type) and issubclass(kind, Secret) for kind in kinds)
        return {key: str(one) if secret and isinstance(one, str) else plain(one, inner) for key, one in value.items()}
    if is_list(value):
        inner = _inner(kinds, list) or Any
        return [plain(one, inner) for one in value]
    return value


def _is_marked(value: Any) -> bool:
    """Return True for a text from the environment, and for a table or list that has one in it."""
    if is_table(value):
        return any(map(_is_marked, value.values()))
    return any(map(_is_marked, value)) if is_list(value) else isinstance(value, FromEnvironment)


def _plain_text(value: FromEnvironment, kinds: tuple[Any, ...]) -> Any:
    if any(isinstance(kind, type) and issubclass(kind, Secret) for kind in kinds):
        return value
    text = str(value)
    if any(isinstance(kind, type) and issubclass(kind, str | Path) for kind in kinds):
        return text
    for kind in kinds:
        if kind in _NUMBERS:
            try:
                return msgspec.convert(text.strip(), kind, strict=False)
            except msgspec.ValidationError:
                continue
    return text


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type, without what annotates them."""
    annotation = getattr(annotation, "__value__", annotation)  # the name of a type (PEP 695)
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin is Union or origin is UnionType:
        return tuple(kind for one in get_args(annotation) for kind in alternatives(one))
    return (annotation,)


def _struct(value: Mapping[str, Any], kinds: tuple[Any, ...]) -> type[msgspec.Struct] | None:
    """Return the one Struct that a table can be: the only one, or that of its tag."""
    structs = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    if len(structs) > 1:
        configs = [(struct, struct.__struct_config__) for struct in structs]
        structs = [struct for struct, one in configs if one.tag_field and value.get(one.tag_field) == one.tag]
    return structs[0] if len(structs) == 1 else None


def _inner(kinds: tuple[Any, ...], base: type) -> Any:
    """Return the type of the values of a mapping, or of the items of a list, or None if they have no one type."""
    for kind in kinds:
        origin, arguments = get_origin(kind), get_args(kind)
        mapping = isinstance(origin, type) and issubclass(origin, Mapping)
        if not isinstance(origin, type) or mapping != (base is Mapping) or not arguments:
            continue
        if mapping:
            return arguments[1]
        if origin is not tuple or arguments[1:] == (...,):
            return arguments[0]
    return None


def _keys(problems: list[Problem], where: str) -> Iterator[str]:
    """Yield the key of the table at `where` that each problem is about."""
    for problem in problems:
        if problem.where.startswith(f"{where}."):
            yield problem.where[len(where) + 1 :].partition(".")[0].partition("[")[0]


def _misspelt(name: str, unknown: list[Problem]) -> bool:
    """Return True if the cure of an unknown key is this one, which is then not missing."""
    return any(problem.text.endswith(f"did you mean {name!r}?") for problem in unknown)


def mentions(problem: Problem, keys: Iterable[str]) -> bool:
    """Return True if a problem is about one of the keys, or its text names one: ``max_size``, `size` or size = 3."""
    words = {
        *re.findall(r"\w*_\w*|(?<=[`'\"])\w+(?=[`'\"])|\w+(?= = )", problem.text),
        *re.split(r"[.\[]", problem.where),
    }
    return not words.isdisjoint(keys)
