"""Imports of modules, and those that a plugin may not have. `test_architecture` has the other rules."""

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import nodekit
import nodekit_remote


class Import(NamedTuple):
    module: str
    """The module that imports."""
    line: int
    target: str
    """The module that is imported."""
    name: str | None
    """The imported name; None: the module itself."""
    typing_only: bool

    @property
    def place(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}{f'.{self.name}' if self.name else ''}"


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@cache
def imports(module: str, tree: ast.Module, known: frozenset[str] = frozenset()) -> Sequence[Import]:
    guarded = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found: list[Import] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(module, node.lineno, alias.name, None, node in guarded) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            target = node.module or ""
            if node.level:
                target = ".".join([*module.split(".")[: -node.level], *([target] if target else [])])
            for alias in node.names:
                whole = f"{target}.{alias.name}"
                taken = (whole, None) if whole in known else (target, alias.name)
                found.append(Import(module, node.lineno, *taken, node in guarded))
    return found


def plugin_violations(one: Import) -> Iterator[str]:
    """Yield the imports that a plugin may not have."""
    package, top = one.module.partition(".")[0], one.target.partition(".")[0]
    if top == "nodekit" and (one.target != "nodekit" or one.name not in nodekit.__all__):
        yield f"{one.place}: a plugin imports names of nodekit.__all__ only"
    if top.startswith("nodekit_") and top != package:
        if top != "nodekit_remote":
            yield f"{one.place}: a plugin imports no other plugin"
        elif one.target != top or one.name not in nodekit_remote.__all__:
            yield f"{one.place}: not a public name of nodekit_remote"
    if top == "pluggy":
        yield f"{one.place}: only nodekit.hooks.manager touches pluggy"
    if top == "click" and not within(one.module, f"{package}.cli"):
        yield f"{one.place}: a plugin's commands, and click, stand in its cli"
