"""Checks of `nodekit doctor`, those of packages included. They run one at a time, and none can harm another."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from importlib.metadata import EntryPoint
from threading import Thread
from typing import TypeAlias

import msgspec

from nodekit.config.distributions import entry_points, owner
from nodekit.config.failures import CURE, keep
from nodekit.config.findings import ExaminedFile, Finding

Check: TypeAlias = Callable[[], Iterable[Finding]]

CHECK_SECONDS = 10.0


def checks_of_packages(file: ExaminedFile | None) -> Iterator[tuple[str, Check]]:
    """Yield the checks of the entry-point group ``nodekit.doctor``; a check is imported when it is made.

    One that has a parameter `file` gets the node file, or None if there is none.
    """
    for entry in entry_points("nodekit.doctor"):
        yield f"{entry.name} of {owner(entry)}", _loaded(entry, file)


def examine(name: str, check: Check, *, seconds: float = CHECK_SECONDS) -> list[Finding]:
    """Run a check and return its findings. A check that fails, or takes longer than `seconds`, is a finding itself."""
    found: list[Finding] = []
    failed: list[BaseException] = []

    def make() -> None:
        try:
            for finding in check():
                found.append(msgspec.convert(msgspec.to_builtins(finding), Finding))
        except BaseException as error:  # also exceptions that would end the process outside a thread
            failed.append(error)

    # A daemon thread, because a check that hangs must not keep the process alive. It runs in this context, so that the
    # metadata of packages is read only once.
    thread = Thread(target=copy_context().run, args=(make,), name=f"doctor: {name}", daemon=True)
    thread.start()
    thread.join(seconds)
    findings = found.copy()
    if thread.is_alive():
        text = f"the check took longer than {seconds:g} s and was given up"
        findings.append(Finding("error", name, text, "find out if the checked service hangs, then run this again"))
    elif failed:
        keep(failed[0], f"{name}: the check failed")
        text = f"the check failed: {type(failed[0]).__name__}: {failed[0]}; {CURE}"
        findings.append(Finding("error", name, text, "update or reinstall the package that it belongs to"))
    return findings


def _loaded(entry: EntryPoint, file: ExaminedFile | None) -> Check:
    def check() -> Iterable[Finding]:
        loaded = entry.load()
        made: Iterable[Finding] = loaded(file=file) if _takes_file(loaded) else loaded()
        return made

    return check


def _takes_file(check: Callable[..., object]) -> bool:
    try:
        parameter = inspect.signature(check).parameters.get("file")
    except (TypeError, ValueError):  # a callable of another language
        return False
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
