"""The `nodekit` command. Installed packages add commands by entry points of the group ``nodekit.commands``."""

from importlib.metadata import EntryPoint, entry_points

import click

from nodekit import __version__
from nodekit.cli._check import check
from nodekit.cli._doctor import doctor
from nodekit.cli._serve import serve

__all__ = ["main"]


class _Commands(click.Group):
    """Commands of other packages are found by metadata, and imported only when they are called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group="nodekit.commands").names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if own := super().get_command(ctx, cmd_name):
            return own
        for entry in entry_points(group="nodekit.commands", name=cmd_name):
            return _load(entry)
        return None


def _load(entry: EntryPoint) -> click.Command:
    """The command of another package; one that is broken harms no other command."""
    try:
        command: click.Command = entry.load()
    except Exception as error:
        text = f"{entry.value} cannot be imported: {type(error).__name__}: {error}"
        return click.Command(entry.name, short_help=text, callback=lambda: _fail(text))
    return command


def _fail(text: str) -> None:
    raise click.ClickException(text)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nodekit")
def main() -> None:
    """Compute nodes: pipelines of containers over HTTP, with durable results."""


main.add_command(serve)
main.add_command(check)
main.add_command(doctor)
