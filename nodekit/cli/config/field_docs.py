"""What the docstrings below the fields of a Struct say. Python drops them; they are read from the source."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise

import msgspec


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Field → what the docstring below it says, inherited ones too; nothing where there is no source."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            found.update(_own(base))
    return {name: text for name, text in found.items() if name in struct.__struct_fields__}


def summary(thing: object) -> str:
    """The first paragraph of a docstring of its own, on a line; that of `msgspec.Struct` is not about settings."""
    if thing is msgspec.Struct:
        return ""
    own: str | None = getattr(thing, "__dict__", {}).get("__doc__")
    return _line(inspect.cleandoc(own).partition("\n\n")[0]) if isinstance(own, str) else ""


def _own(struct: type) -> Iterator[tuple[str, str]]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    except (OSError, TypeError, ValueError, SyntaxError):  # no source, or not that of one class
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
