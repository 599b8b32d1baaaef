"""The effective configuration as TOML, with comments that mark the defaults."""

from collections.abc import Iterator
from typing import Any

import tomli_w

from nodekit.cli.config.effective import Setting, Table, is_list, is_table

_DEFAULTS = "# by default:"


def toml(table: Table) -> str:
    """Format a node file. TOML has no null, so keys without a value stand in comments."""
    return "\n".join(line for setting in table.settings for line in _setting((), setting)).strip() + "\n"


def _setting(above: tuple[str, ...], setting: Setting) -> Iterator[str]:
    path = (*above, setting.key)
    tables: list[Table] = setting.value if is_list(setting.value) else [setting.value]
    header = "[[{}]]" if is_list(setting.value) else "[{}]"
    for table in tables:
        yield ""
        yield header.format(_dotted(path))
        yield from _body(path, table)


def _body(path: tuple[str, ...], table: Table) -> Iterator[str]:
    plain = [setting for setting in table.settings if not _has_tables(setting.value)]
    yield from (_line(setting) for setting in plain if setting.given)
    if defaults := [setting for setting in plain if not setting.given]:
        yield _DEFAULTS
        yield from map(_line, defaults)
    for setting in table.settings:
        if _has_tables(setting.value):
            yield from _setting(path, setting)


def _line(setting: Setting) -> str:
    if setting.value is None:
        return f"# {setting.key}: none"
    return f"{_dotted((setting.key,))} = {_value(setting.value)}"


def _value(value: Any) -> str:
    """Format a value on one line."""
    if isinstance(value, Table):
        value = value.plain()
    if is_table(value):
        inner = [f"{_dotted((key,))} = {_value(one)}" for key, one in value.items()]
        return f"{{ {', '.join(inner)} }}" if inner else "{}"
    if is_list(value):
        return f"[{', '.join(_value(one) for one in value)}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")


def _has_tables(value: Any) -> bool:
    """Return True if the value is written below a header of its own."""
    if is_list(value):
        return bool(value) and all(isinstance(one, Table) for one in value)
    return isinstance(value, Table) and bool(value.settings)


def _dotted(path: tuple[str, ...]) -> str:
    return tomli_w.dumps({path[0]: {}} if len(path) == 1 else _nested(path)).strip().removeprefix("[").removesuffix("]")


def _nested(path: tuple[str, ...]) -> dict[str, Any]:
    return {path[0]: _nested(path[1:])} if path else {}
