"""Type guards for decoded JSON and for the tables of a node file."""

from typing import Any, TypeGuard


def is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
