"""Options that several commands of `nodekit job` share, and the translation of their values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

import click

from nodekit_asgi.cli.address import DEFAULT_URL, check_node
from nodekit_asgi.cli.key import VARIABLE, take_key_file
from nodekit_asgi.cli.request import Submission, check_key, read_data, submission

F = TypeVar("F", bound=Callable[..., Any])


class InputFile(click.File):
    """A file to read; `-` is standard input, if there is one."""

    def __init__(self) -> None:
        super().__init__("rb")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except RuntimeError:
            self.fail("-: standard input is closed; name a file", param, ctx)


def node_options(command: F) -> F:
    """Add the options of every command that prints JSON: `--json` and `--node`."""
    return node_option(json_option("Print the node's JSON, one document.")(command))


def json_option(text: str) -> Callable[[F], F]:
    return click.option("--json", "as_json", is_flag=True, help=text)


def node_option(command: F) -> F:
    """Add `--node` and `--key-file`, the options of every command."""
    key_file = click.option(
        "--key-file",
        callback=take_key_file,
        is_eager=True,  # the callback of --node takes the key
        expose_value=False,
        metavar="PATH",
        help=f"Read the key from this file.  [env var: {VARIABLE}, the key itself]",
    )
    node = click.option(
        "--node",
        callback=check_node,
        metavar="URL",
        envvar="NODEKIT_URL",
        show_envvar=True,
        default=DEFAULT_URL,
        show_default=True,
        help="http://HOST:PORT, https://HOST:PORT or unix:PATH.",
    )
    return node(key_file(command))


def submission_options(command: F) -> F:
    """Add the options that make up a job, and `--idempotency-key`, which makes it safe to submit it again."""
    return request_options(key_option(command))


def request_options(command: F) -> F:
    """Add the arguments and options that make up a job."""
    options: Sequence[Callable[[F], F]] = (
        click.argument("containers", metavar="CONTAINER...", nargs=-1, required=True),
        click.option("--data", metavar="JSON", help="The input of the first container, an object; by default {}."),
        click.option(
            "--file", type=InputFile(), metavar="PATH", help="Read the input from this file; -: standard input."
        ),
        click.option("--pipeline", metavar="NAME", help="Another pipeline of the node."),
        click.option("--requires-proof", is_flag=True, help="The last container must give a proof."),
        priority_option("3"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def submission_of(
    containers: tuple[str, ...],
    data: str | None,
    file: BinaryIO | None,
    pipeline: str | None,
    requires_proof: bool,
    priority: int | None,
    idempotency_key: str | None = None,
) -> Submission:
    fields: dict[str, Any] = {"pipeline": pipeline, "requires_proof": requires_proof, "priority": priority}
    return submission(containers, read_data(data, file), **fields, key=idempotency_key)


def priority_option(otherwise: str) -> Callable[[F], F]:
    return click.option(
        "--priority", type=click.IntRange(0, 7), help=f"A lower number is more urgent; by default {otherwise}."
    )


def key_option(command: F) -> F:
    text = "Submit a job with this key only once."
    return click.option("--idempotency-key", metavar="KEY", callback=check_key, help=text)(command)


def timeout_option(command: F) -> F:
    seconds = click.FloatRange(0, min_open=True)
    return click.option("--timeout", type=seconds, metavar="SECONDS", help="Wait at most this long.")(command)


def list_filters(
    *,
    everybody: bool,
    client: str | None,
    pending: bool,
    finished: bool,
    status: str | None,
    order: str,
    **failed: str | None,
) -> Mapping[str, str]:
    """Return the order and the filters of the query. Raise `click.UsageError` for options that exclude each other."""
    if everybody and client is not None:
        raise click.UsageError("--all and --client exclude one another; leave one out")
    whose = {"all": "true"} if everybody else {} if client is None else {"client": client}
    if pending + finished + (status is not None) > 1:
        raise click.UsageError("--pending, --finished and --status exclude one another; leave them out for all jobs")
    given = {name: value for name, value in failed.items() if value is not None}
    if given and status != "failed":
        raise click.UsageError(f"--{' and --'.join(given)}: only with --status failed")
    if status is not None:
        return {"order": order, **whose, "status": status, **given}
    return {"order": order, **whose, **({"pending": str(pending).lower()} if pending or finished else {})}
