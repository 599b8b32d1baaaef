"""The reasons that `/health` may give, as the source has them: texts in which each value is `GAP`.

A reason is what reaches one of these places: functions that report problems, with the functions and constants of their
module that they use; calls, raised errors and attributes that such functions report later.
"""

import ast
from collections.abc import Iterable, Iterator

from paths import ROOT

GAP = "\0"
REPORTING = {"without_keys", "for_anybody"} | {
    "_look",
    "diagnosis",
    "problem",
    "problems",
    "nodekit_problems",
    "health",
    "reported",
    "full",
}
"""Functions whose texts are reasons."""
CALLS = {"happened": 0, "is_gone": 0, "_is_down": 1, "of_part": 0, "_attempt": 1}
"""Functions that are given a reason, or the part of one, and the position of that argument."""
ERRORS = {"EngineGone", "KeyFileProblem", "NameTaken", "StateUnusable"}
"""Errors whose texts become reasons."""
ATTRIBUTES = {"_problem", "trouble", "_waits"}
"""Attributes that hold a reason."""
TABLES = {"problems", "_problems"}
"""Attributes that hold reasons by name."""
ELSEWHERE = {"testing", "cli", "config"}
"""Rooms of `nodekit` that run in no node."""
NOT_REASONS = {
    "nodekit/model/limits.py": {"problems"},
    "plugins/nodekit_docker/config.py": {"problems"},
    "plugins/nodekit_process/_config.py": {"problems"},
    "plugins/nodekit_asgi/api/handlers.py": {"health"},
}
"""Functions of such a name that report problems of a node file, or pass reasons on."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("nodekit", "plugins", "contrib"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).parts
            if not {*parts} & {"cli", "doctor.py", "tests", *(ELSEWHERE if folder == "nodekit" else ())}:
                yield "/".join(parts), ast.parse(path.read_text(encoding="utf-8"))


def reasons() -> dict[str, str]:
    """Return the places of all reasons, by their texts."""
    return {text: f"{name}:{line}" for name, tree in modules() for text, line in reasons_of(name, tree)}


def reasons_of(name: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in reporting_functions(name, tree):
        left_out = documentation(node)
        for part in ast.walk(node):
            yield from texts(part, left_out)
            if isinstance(part, ast.Name) and id(part) not in left_out:
                yield from of_name(part, tree.body)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=called) | ast.Name(id=called), args=arguments):
                position = CALLS.get(called, 0 if called in ERRORS else None)
                if position is not None and position < len(arguments):
                    yield from of_value(arguments[position], tree)
            case ast.Assign(targets=[target], value=value):
                if is_reason(target):
                    yield from of_value(value, tree)


def is_reason(target: ast.expr) -> bool:
    match target:
        case ast.Subscript(value=ast.Attribute(attr=name)):
            return name in TABLES
        case ast.Attribute(attr=name):
            return name in ATTRIBUTES
        case ast.Tuple(elts=targets):
            return any(map(is_reason, targets))
    return False


def reporting_functions(name: str, tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    wanted = REPORTING - NOT_REASONS.get(name, set())
    found = [function for function in functions if function.name in wanted]
    for function in found:  # grows meanwhile
        called = {node.func.attr for node in ast.walk(function) if is_own_call(node)}
        called |= {node.func.id for node in ast.walk(function) if is_call_by_name(node)}
        found += [other for other in functions if other.name in called and other not in found]
    return found


def is_own_call(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="self"))):
            return True
    return False


def is_call_by_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def documentation(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    """Return the numbers of the nodes that are no reasons: the docstring, what is logged, names of attributes."""
    left_out = set[int]()
    for node in ast.walk(function):
        match node:
            case ast.Expr(value=ast.Constant() as constant):
                left_out.add(id(constant))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"))):
                left_out |= {id(part) for part in ast.walk(node)}
            case ast.JoinedStr(values=parts):
                left_out |= {id(inner) for part in parts for inner in (part, *inner_names(part))}
    return left_out


def of_value(value: ast.expr, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the texts of a value; of a name, what the module assigns to it."""
    if isinstance(value, ast.Name):
        yield from of_name(value, ast.walk(tree))
    yield from texts(value, set())


def of_name(name: ast.Name, among: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    for node in among:
        match node:
            case ast.Assign(targets=[ast.Name(id=assigned)], value=value) if assigned == name.id:
                yield from texts(value, set())


def inner_names(part: ast.AST) -> list[ast.AST]:
    return [node for node in ast.walk(part) if isinstance(node, ast.Name)]


def texts(node: ast.AST, left_out: set[int]) -> Iterator[tuple[str, int]]:
    """Yield the text of a string with more than one word."""
    if id(node) in left_out or not isinstance(node, ast.Constant | ast.JoinedStr):
        return
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values]
        text = "".join(parts)
    else:
        text = node.value if isinstance(node.value, str) else ""
    if len(text.replace(GAP, "").split()) > 1:
        yield text, node.lineno
