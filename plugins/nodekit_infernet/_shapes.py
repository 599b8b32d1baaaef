"""What decoded JSON and the tables of a node file are made of, told apart for type checkers too."""

from typing import Any, TypeGuard


def is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
