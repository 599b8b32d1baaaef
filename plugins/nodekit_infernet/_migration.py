"""The migration of an Infernet node's ``config.json`` to a node file in TOML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodekit import Secret
from nodekit_infernet._draft import Draft, Reference
from nodekit_infernet._reading import read_config
from nodekit_infernet._shapes import is_list, is_table
from nodekit_infernet._toml import document
from nodekit_infernet._translation import translated

_HEAD = (
    "Written by `nodekit migrate` from the config.json of an Infernet node. Comments say what has changed, and why.",
    "Relative paths are relative to this file: keep it where config.json is. `nodekit check` says whether it is right.",
)


def migrated(path: Path) -> tuple[str, list[Reference]]:
    """Return the node file, and the references that replace its secrets. Raise `CompositionError` for a wrong JSON."""
    draft = translated(read_config(path))
    _comment_defaults(draft)
    comments = {**draft.comments, "": [*_HEAD, *draft.comments.get("", ())]}
    references = draft.references
    text = document(_referenced(draft.tables, references, ""), comments)
    return text, sorted({one.variable: one for one in references.values()}.values(), key=lambda one: one.variable)


_DEFAULTED = {
    "log.path": "log.path",
    "log.max_file_bytes": "log.max_file_size",
    "log.backups": "log.backup_count",
    "transports[0].bind": "server.port",
    "plugins[1].requests": "server.rate_limit.num_requests",
    "plugins[1].period_seconds": "server.rate_limit.period",
}


def _comment_defaults(draft: Draft) -> None:
    for where, key in _DEFAULTED.items():
        if not draft.given(key):
            draft.comment(where, f"{key} was not set: Infernet's default.")


def _referenced(value: Any, references: Mapping[str, Reference], where: str) -> Any:
    """Return the tables with a reference in place of each secret."""
    if isinstance(value, Secret):
        return {"env": references[where].variable}
    if is_table(value):
        prefix = f"{where}." if where else ""
        return {key: _referenced(one, references, f"{prefix}{key}") for key, one in value.items()}
    if is_list(value):
        return [_referenced(one, references, f"{where}[{number}]") for number, one in enumerate(value)]
    return value
