"""Docstrings below the fields of a Struct. Python drops them, so they are read from the source."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise

import msgspec


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Map the fields, also inherited ones, to the docstrings below them. The map is empty if there is no source."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            found.update(_own(base))
    return {name: text for name, text in found.items() if name in struct.__struct_fields__}


def summary(thing: object) -> str:
    """Return the first paragraph of a thing's own docstring, on one line; empty if it has none.

    The docstring of `msgspec.Struct` is left out, because it is not about settings.
    """
    if thing is msgspec.Struct:
        return ""
    own: str | None = getattr(thing, "__dict__", {}).get("__doc__")
    return _line(inspect.cleandoc(own).partition("\n\n")[0]) if isinstance(own, str) else ""


def _own(struct: type) -> Iterator[tuple[str, str]]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    except (OSError, TypeError, ValueError, SyntaxError):  # no source, or not the source of one class
        return
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for statement, following in pairwise(body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, _line(inspect.cleandoc(text))
            case _:
                pass


def _line(text: str) -> str:
    return " ".join(text.split())
