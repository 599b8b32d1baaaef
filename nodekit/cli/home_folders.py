"""Home folders on the command line. Few shells expand the ``~`` in ``--output=~/file``, and systemd never does."""

from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.shell_completion import CompletionItem

from nodekit.config.paths import with_home

if TYPE_CHECKING:
    ParamType: TypeAlias = click.ParamType[Any]
else:  # older versions have no parameters
    ParamType = click.ParamType


class _WithHome(ParamType):
    """The type of a path, of which ``~`` and ``~user`` may be the beginning."""

    def __init__(self, inner: ParamType) -> None:
        self._inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            given = with_home(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return self._inner.convert(given, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return self._inner.shell_complete(ctx, param, incomplete)


def with_home_folders(command: click.Command) -> click.Command:
    """Have all paths and files of a command, and of its own commands, begin with ``~`` or ``~user`` if they like."""
    for param in command.params:
        if isinstance(param.type, click.Path | click.File):
            param.type = _WithHome(param.type)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_home_folders(inner)
    return command
