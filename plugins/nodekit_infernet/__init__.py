"""The format `json`: an Infernet node's ``config.json``, version 1.4, as a node file; and `nodekit migrate`.

Settings that the file does not have are as in Infernet if that is safe, and otherwise as in nodekit. Each difference
that a caller or an operator may notice becomes a notice, and a comment in the output of `nodekit migrate`.
"""

from pathlib import Path

from nodekit import CompositionError, Format, NodeTables
from nodekit_infernet._reading import read_config
from nodekit_infernet._translation import summary, translated

__all__ = ["config_json"]


def _read(path: Path) -> NodeTables:
    draft = translated(read_config(path))
    if draft.problems:
        from nodekit_infernet._checking import all_problems  # needed for a wrong file only

        raise CompositionError(all_problems(draft))
    return NodeTables(draft.tables, tuple(draft.notices), draft.origins, summary(draft))


config_json = Format(_read, variable="INFERNET_CONFIG_PATH")
