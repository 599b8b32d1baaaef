"""Mutants of a module: its text with one small change each, by operators of Cosmic Ray and a few more.

Only bodies of functions are changed: fields and constants are settings. Annotations and logging stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator
from parso import parse

_SWAPPED = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "RShift_LShift", "LShift_RShift", "Pow_Mul")
_BITS = ("BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitAnd")
_COMPARED = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")
_OTHERS = (
    "AddNot",
    "NumberReplacer",
    "ReplaceAndWithOr",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_USub_UAdd",
    "ZeroIterationForLoop",
)
_NAMES = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in (*_SWAPPED, *_BITS)),
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARED),
    *_OTHERS,
)


_CONTRARY = {"+=": "-=", "-=": "+=", "|=": "&=", "^=": "|=", "in": "not in", "not in": "in"}


class _Ours(Operator):
    """An operator that changes a node in one way, or not at all."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if self.changes(node):
            yield node.start_pos, node.end_pos

    def changes(self, node: Any) -> bool:
        raise NotImplementedError

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return ()


class Removed(_Ours):
    """Removes a statement of a function."""

    def changes(self, node: Any) -> bool:
        if node.type not in ("expr_stmt", "atom_expr", "await", "del_stmt", "raise_stmt", "keyword"):
            return False
        return node.parent.type == "simple_stmt" and node.get_code().strip() not in ("pass", "...")

    def mutate(self, node: Any, index: int) -> Any:
        return parse(f"{node.get_first_leaf().prefix}pass")


class NothingReturned(_Ours):
    """Returns None from a function."""

    def changes(self, node: Any) -> bool:
        return node.type == "return_stmt" and node.children[1].get_code().strip() not in ("None", "False")

    def mutate(self, node: Any, index: int) -> Any:
        return parse(f"{node.get_first_leaf().prefix}return None")


class Contrary(_Ours):
    """Replaces operators by their contrary: `+` by `-`, `in` by `not in`."""

    def changes(self, node: Any) -> bool:
        if node.get_code().strip() not in _CONTRARY:
            return False
        return node.type == "operator" or node.parent.type == "comparison"

    def mutate(self, node: Any, index: int) -> Any:
        return parse(f" {_CONTRARY[node.get_code().strip()]}")


class Uncaught(_Ours):
    """Lets an exception pass uncaught."""

    def changes(self, node: Any) -> bool:
        parent = node.parent
        if parent is not None and parent.type == "testlist_comp":
            return parent.parent.parent.type == "except_clause" and node.type != "operator"
        return (
            parent is not None and parent.type == "except_clause" and node is parent.children[1] and node.type != "atom"
        )

    def mutate(self, node: Any, index: int) -> Any:
        return parse(f"{node.get_first_leaf().prefix}EncodingWarning")


@dataclass(frozen=True)
class Mutant:
    """A module, changed in one place."""

    function: str
    was: str
    now: str
    line: int
    text: str
    """The whole module."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Identify the mutant by function and lines, which stay when code moves within the module."""
        return self.function, self.was, self.now


_OURS = (Removed, NothingReturned, Contrary, Uncaught)


def mutants(path: Path) -> list[Mutant]:
    """Return all mutants of a module, in order of lines."""
    source = path.read_text()
    everything = list(ast_nodes(get_ast(source)))
    found: list[Mutant] = []
    for operator in [*(get_operator(f"core/{name}") for name in _NAMES), *_OURS]:
        nodes = [node for node in everything for _ in operator().mutation_positions(node)]
        for occurrence, node in enumerate(nodes):
            function = _function(node)
            if function is not None and (text := mutate_code(source, operator(), occurrence)):
                found.append(_mutant(function, node.start_pos[0], source, text))
    return sorted(found, key=lambda mutant: mutant.line)


def _mutant(function: str, line: int, source: str, text: str) -> Mutant:
    old, new = source.splitlines(), text.splitlines()
    while old[0] == new[0]:
        del old[0], new[0]
    while old[-1] == new[-1]:
        del old[-1], new[-1]
    was, now = ("\n".join(map(str.strip, lines)) for lines in (old, new))
    return Mutant(function, was, now, line, text)


def _function(node: Any) -> str | None:
    """Return the class and function around a node, or None if the node is not to be changed."""
    names: list[str] = []
    within = False
    while (parent := node.parent) is not None:
        if parent.type in ("annassign", "param") and _is_annotation(node, parent):
            return None
        if parent.type == "simple_stmt" and parent.get_code().strip().startswith("logger."):
            return None
        if parent.type == "parameters" and node.type == "operator":
            return None
        if parent.type == "funcdef" and node.type not in ("parameters", "suite", "simple_stmt"):
            return None  # the annotation of its result
        if parent.type == "argument" and parent.get_code().strip().startswith("strict="):
            return None  # `strict` of `zip` checks an invariant
        if parent.type in ("funcdef", "classdef"):
            names.append(parent.name.value)
            within |= parent.type == "funcdef"
        node = parent
    return ".".join(reversed(names)) if within else None


def _is_annotation(node: Any, parent: Any) -> bool:
    before = parent.children[max(0, parent.children.index(node) - 1)].get_code().strip()
    return before == ":" or (parent.type == "param" and node is not parent.default)
