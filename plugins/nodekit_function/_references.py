"""References to functions in node files."""

import importlib
import importlib.util
import inspect
import os
import sys
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from nodekit import NodekitError, folder_problem, resolved_path


class ReferenceProblem(NodekitError):
    """A reference that leads to no function. The message has the cure."""


def referred(reference: str, folder: Path, files: dict[Path, ModuleType]) -> Any:
    """Return the function that ``package.module:name`` or ``file.py:name`` refers to. `files` has modules of files.

    Raise `ReferenceProblem`, or whatever the code of the module raises.
    """
    place, separator, name = reference.partition(":")
    is_module = all(part.isidentifier() for part in place.split("."))
    if not separator or not name or not (is_module or place.endswith(".py")):
        raise ReferenceProblem("expected package.module:function or file.py:function")
    module = _module(place, folder, files)
    function = getattr(module, name, None)
    if not callable(function):
        text = f"{name} is not a function" if function is not None else f"there is no {name!r} in {place}"
        raise ReferenceProblem(f"{text}; {_functions_of(module)}")
    return function


def _module(place: str, folder: Path, files: dict[Path, ModuleType]) -> ModuleType:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if not error.name or not f"{place}.".startswith(f"{error.name}."):
                raise  # one that the module itself imports
            cure = f"install it where nodekit is, or name a file: {place.replace('.', '/')}.py:function"
            raise ReferenceProblem(f"there is no module {error.name!r}; {cure}") from error
    try:
        path = resolved_path(place, folder).resolve()
    except ValueError as error:
        raise ReferenceProblem(str(error)) from error
    if not os.path.isfile(path):
        raise ReferenceProblem(folder_problem(path.parent) or f"there is no file {path}; correct the path")
    return _file_module(path, files)


def _functions_of(module: ModuleType) -> str:
    """Return the functions of a module's own, for the cure."""
    own = {name: one for name, one in vars(module).items() if getattr(one, "__module__", None) == module.__name__}
    found = [name for name, one in own.items() if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one)]
    return f"its functions: {', '.join(found)}" if found else "it has no `async def` of its own"


_numbers = count(1)


def _file_module(path: Path, files: dict[Path, ModuleType]) -> ModuleType:
    """Return the module of a file, under a unique name. The file is run if it is not in `files` yet."""
    if path not in files:
        name = f"nodekit_function_file_{next(_numbers)}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        files[path] = module
    return files[path]
