"""Settings for a provider without a node file: defaults, fresh folders and free ports."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec

from nodekit.config.addresses import ADDRESS_KEYS
from nodekit.config.providers import Kind
from nodekit.config.secrets import Secret
from nodekit.errors import NodekitError

LEASE_SECONDS = 0.5
"""The default of `SharedStoreContract`."""
_HOST = "127.0.0.1"
_FREE_PORT = 0


class CannotBeMade(NodekitError):
    """No component can be built with the known settings; the message says why, and what to do."""

    def __init__(self, reason: str, cure: str) -> None:
        self.reason = reason
        self.cure = cure
        super().__init__(f"{reason}; {cure}")


def settings_for(
    struct: type[msgspec.Struct],
    *,
    name: str,
    kind: Kind,
    folder: Path,
    written: Mapping[str, Any],
    given: Mapping[str, Any],
    beside: Path | None = None,
) -> dict[str, Any]:
    """Return a table as a node file would have it.

    `written` are the settings of a node file in the folder `beside`; those in `given` win. Paths of a store always lead
    into `folder`, so that no test touches jobs that somebody wants to keep. Other paths lead into `folder`, unless they
    are absolute or exist beside the node file. Raise `CannotBeMade` if a required setting is missing.
    """
    table = {**written, **given}
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for field in fields.values():
        key = field.name
        if takes(field.type, Path) and (key in table or field.required or isinstance(field.default, Path)):
            place = str(table.get(key, key if field.required else field.default))
            table[key] = str(folder / Path(place).name if kind == "store" else _found(place, folder, beside))
        elif kind == "store" and key == "lease_seconds":
            table[key] = given.get(key, LEASE_SECONDS)
        elif key not in given and (fresh := _of_this_machine(key, kind, takes(field.type, str), "port" in fields)):
            table[key] = fresh
    missing = [field for field in fields.values() if field.required and field.name not in table]
    if missing:
        names = ", ".join(repr(field.name) for field in missing)
        example = " ".join(f"--set {name}.{field.name}={_example(field.type)}" for field in missing)
        raise CannotBeMade(f"it needs a value for {names}", f"give {example}, or a node file: --with FILE")
    return table


def has_path(struct: type[msgspec.Struct], given: Mapping[str, Any]) -> bool:
    """Return True if the settings include a path, which says where something is kept."""
    return any(
        takes(field.type, Path) and (field.required or field.name in given) for field in msgspec.structs.fields(struct)
    )


def takes(annotation: Any, kind: type) -> bool:
    """Return True if a field accepts this type: as its own type, annotated, or one of several."""
    if get_origin(annotation) is Annotated:
        return takes(get_args(annotation)[0], kind)
    if isinstance(annotation, type):
        return issubclass(annotation, kind)
    return any(takes(one, kind) for one in get_args(annotation) if get_origin(annotation) not in (tuple, list, dict))


def _found(place: str, folder: Path, beside: Path | None) -> Path:
    there = beside / place if beside else None
    return there if there and os.path.exists(there) else folder / place  # an absolute path stays as it is


def _of_this_machine(key: str, kind: Kind, is_text: bool, has_port: bool) -> str | int | None:
    if is_text and (key in ADDRESS_KEYS or key.endswith(tuple(f"_{name}" for name in ADDRESS_KEYS))):
        return f"{_HOST}:{_FREE_PORT}"
    if kind == "transport" and key == "port":
        return _FREE_PORT
    if kind == "transport" and key == "host" and has_port:
        return _HOST
    return None


def _example(annotation: Any) -> str:
    if takes(annotation, Secret):
        return "'{ env = \"NAME\" }'"
    for kind, text in ((bool, "true"), (int, "1"), (float, "1.0")):
        if takes(annotation, kind):
            return text
    return "VALUE"
