"""Documentation of the fields of a Struct: a list in its docstring, where `help()` shows it."""

import inspect
import re

import msgspec

_ITEM = re.compile(r"^- `(\w+)`: (.*?)(?=^- `|^\S|\Z)", re.MULTILINE | re.DOTALL)


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Map the fields, also inherited ones, to the texts of items such as ``- `field`: text`` in the docstrings."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            found.update((name, _line(text)) for name, text in _ITEM.findall(inspect.cleandoc(base.__doc__ or "")))
    return {name: text for name, text in found.items() if name in struct.__struct_fields__}


def summary(thing: object) -> str:
    """Return the first paragraph of a thing's own docstring, on one line; empty if it has none.

    The docstring of `msgspec.Struct` is left out, because it is not about settings.
    """
    if thing is msgspec.Struct:
        return ""
    own: str | None = getattr(thing, "__dict__", {}).get("__doc__")
    return _line(inspect.cleandoc(own).partition("\n\n")[0]) if isinstance(own, str) else ""


def _line(text: str) -> str:
    return " ".join(text.split())
