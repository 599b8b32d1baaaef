"""`nodekit certify`."""

import os
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from nodekit.cli.exit_codes import FAILED
from nodekit.errors import NodekitError

if TYPE_CHECKING:
    from nodekit.cli.certify.packages import Package

_BACKENDS = ("asyncio", "trio")


@click.command()
@click.argument("package")
@click.argument("tests", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--provider", "only", multiple=True, metavar="KIND:NAME", help="Only this provider, e.g. store:shelf; repeat it."
)
@click.option("--set", "settings", multiple=True, metavar="NAME.KEY=VALUE", help="A setting of a provider, in TOML.")
@click.option(
    "--with", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A node file with more."
)
@click.option("--backend", "backends", multiple=True, type=click.Choice(_BACKENDS), help="An event loop; repeat it.")
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds for one test.")
@click.option("--json", "as_json", is_flag=True, help="A JSON document, for programs.")
@click.option(
    "--output", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file to put the table into."
)
def certify(
    package: str,
    tests: tuple[Path, ...],
    only: tuple[str, ...],
    settings: tuple[str, ...],
    file: Path | None,
    backends: tuple[str, ...],
    timeout: float,
    as_json: bool,
    output: Path | None,
) -> None:
    """Run the suites that fit the providers of an installed PACKAGE; print a table for its README.

    TESTS are files or folders of the package's own tests: classes there that subclass a suite of nodekit.testing count.
    If none tests a provider, a suite is made from its settings. Exits with 0 if every provider passed.
    """
    _needs("pytest", *(backend for backend in backends if backend != "asyncio"))
    from nodekit.cli.certify.certifying import Wishes
    from nodekit.cli.certify.certifying import certify as certified
    from nodekit.cli.certify.table import between_marks
    from nodekit.cli.certify.table import table as as_table

    found = _package(package)
    wishes = Wishes(
        tests=tests,
        only=_providers(found, only),
        given=_given(found, settings),
        file=file,
        backends=backends or _BACKENDS[:1],
        seconds=timeout,
    )
    _readable(output)
    with _ended_in_order():
        certificate = certified(found, wishes, lambda text: click.echo(text, err=True))
    table = as_table(certificate)
    if output:
        _replace(output, between_marks(output.read_text(encoding="utf-8"), table))
    document = msgspec.json.format(msgspec.json.encode(certificate)).decode()
    click.echo(document if as_json else table.rstrip())
    sys.exit(0 if certificate.certified else FAILED)


def _needs(*modules: str) -> None:
    for name in modules:
        if find_spec(name) is None:
            _fail(f"this needs {name}, which is not installed: {sys.executable} -m pip install {name}")


def _package(name: str) -> "Package":
    from nodekit.cli.certify.packages import PackageUnknown, find_package

    try:
        found = find_package(name)
    except PackageUnknown as error:
        raise click.BadParameter(str(error), param_hint="PACKAGE") from error
    if not found.providers:
        _fail(
            f"{found.name} {found.version} has nothing to certify:  it has no entry point of the groups "
            "nodekit.stores, nodekit.runners, nodekit.transports, nodekit.pipelines or nodekit.plugins; "
            "add one and install it again"
        )
    return found


def _providers(package: "Package", only: Sequence[str]) -> tuple[str, ...]:
    known = {f"{kind}:{entry.name}" for kind, entry in package.providers}
    if unknown := [label for label in only if label not in known]:
        text = f"{package.name} has no provider {unknown[0]!r}; its providers: {', '.join(sorted(known))}"
        raise click.BadParameter(text, param_hint="--provider")
    return tuple(only)


def _given(package: "Package", settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse settings ``NAME.key=value`` into tables by the name of a provider."""
    names = {entry.name for _, entry in package.providers}
    given: dict[str, dict[str, Any]] = {}
    for setting in settings:
        place, equals, value = setting.partition("=")
        name, dot, key = place.strip().partition(".")
        if not (equals and dot and key):
            raise click.BadParameter(f"{setting!r} is not NAME.KEY=VALUE, such as shelf.size=3", param_hint="--set")
        if name not in names:
            text = f"{package.name} has no provider {name!r}; its providers: {', '.join(sorted(names))}"
            raise click.BadParameter(text, param_hint="--set")
        table = given.setdefault(name, {})
        *tables, last = key.split(".")
        for inner in tables:
            table = table.setdefault(inner, {})
        table[last] = _value(value)
    return given


def _value(text: str) -> Any:
    """Parse a value as TOML. Text that is not TOML is used unchanged."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _readable(output: Path | None) -> None:
    """Check that a file has a place for the table, now and not after minutes of tests."""
    from nodekit.cli.certify.table import between_marks

    if output:
        try:
            between_marks(output.read_text(encoding="utf-8"), "")
        except (NodekitError, OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{output}: {error}", param_hint="--output") from error


def _replace(file: Path, text: str) -> None:
    """Replace a file atomically, so that it is never cut short."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.resolve().parent, delete=False) as new:
        new.write(text)
    Path(new.name).chmod(file.stat().st_mode & 0o777)
    os.replace(new.name, file.resolve())


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Make SIGTERM end the command as Ctrl-C does, together with its processes and folders."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(text: str) -> NoReturn:
    raise click.ClickException(text)
