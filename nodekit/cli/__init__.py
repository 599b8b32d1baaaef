"""The `nodekit` command. Installed packages add commands by entry points of the group ``nodekit.commands``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from io import StringIO
from typing import IO, Any

import click

from nodekit import __version__
from nodekit.cli.certify.command import certify
from nodekit.cli.check import check
from nodekit.cli.cluster import cluster
from nodekit.cli.colours import colours
from nodekit.cli.config.command import config
from nodekit.cli.doctor.command import doctor
from nodekit.cli.home_folders import with_home_folders
from nodekit.cli.new.command import new
from nodekit.cli.plugins.command import plugins
from nodekit.cli.serve.command import serve
from nodekit.cli.serve.log.node_log import tracebacks_shown
from nodekit.cli.standard_streams import standard_streams
from nodekit.cli.store.command import store
from nodekit.cli.store.prune import prune
from nodekit.config.distributions import entry_points, read_once
from nodekit.config.providers import load_only
from nodekit.errors import NodekitError
from nodekit.foreign_text import printable_lines

__all__ = ["main"]

_GROUP = "nodekit.commands"


class _Shown(click.ClickException):
    """An error of a command, shown behind ``nodekit:`` like all that nodekit says on standard error."""

    def __init__(self, error: click.ClickException) -> None:
        super().__init__(error.format_message())
        self.exit_code = error.exit_code  # type: ignore[misc] # click's examples do so, too
        self._error = error

    def show(self, file: IO[Any] | None = None) -> None:
        shown = StringIO()
        self._error.show(shown)
        usage = click.unstyle(shown.getvalue())
        text = click.unstyle(f"Error: {self.message}\n")
        if usage.endswith(text):  # and is no page of help
            usage = f"{usage.removesuffix(text)}nodekit: {self.message}\n"
        click.echo(printable_lines(usage), file, nl=False, err=True)


class _Commands(click.Group):
    """A group of commands. Those of other packages are found by metadata, and imported when called or listed."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command. The metadata of installed packages is read once meanwhile."""
        with standard_streams(), read_once():
            return super().main(*args, **{"color": colours(), **kwargs})

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _shown():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _shown():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(entry.name for entry in entry_points(_GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if own := super().get_command(ctx, cmd_name):
            return with_home_folders(own)
        entries = [entry for entry in entry_points(_GROUP) if entry.name == cmd_name]
        return with_home_folders(_load(entries, cmd_name)) if entries else None


@contextmanager
def _shown() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        raise _Shown(error) from error


def _load(entries: Sequence[EntryPoint], name: str) -> click.Command:
    """Load the command of another package. A broken one shows its error when called, and harms no other command."""
    try:
        return load_only(entries, click.Command, f"command {name!r}")
    except NodekitError as error:
        text = str(error)
        return click.Command(name, short_help=text, callback=lambda: _fail(text))


def _fail(text: str) -> None:
    raise click.ClickException(text)


def _show_tracebacks(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.with_resource(tracebacks_shown())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nodekit")
@click.option(
    "--traceback",
    is_flag=True,
    is_eager=True,  # commands of packages are imported before the function below is called
    expose_value=False,
    callback=_show_tracebacks,
    help="Show where the code of an installed package failed.",
)
def main() -> None:
    """Compute nodes: pipelines of containers over HTTP, with durable results."""


main.add_command(serve)
main.add_command(check)
main.add_command(certify)
main.add_command(doctor)
main.add_command(plugins)
main.add_command(cluster)
main.add_command(config)
main.add_command(new)
main.add_command(prune)
main.add_command(store)
