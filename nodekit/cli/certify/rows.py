"""The result: a row for each provider and suite, the failures, and the verdict for the package. Pure functions."""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

import nodekit
from nodekit.cli.certify.messages import Broken, Ended, Examined, Found, Message, Subject
from nodekit.cli.certify.packages import Package
from nodekit.cli.certify.suites import needed
from nodekit.config.providers import Kind
from nodekit.model.counting import counted
from nodekit.testing.contracts.backends import NOT_APPLICABLE


class Looked(msgspec.Struct, frozen=True):
    """A provider that was examined.

    - `asked`: True if it is to be certified.
    """

    subject: Subject
    seen: Examined
    asked: bool


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one suite for one provider.

    - `tests`: The class of the package's own tests; empty if the suite was made for the provider.
    - `text`: The reason why it did not pass.
    """

    kind: Kind
    provider: str
    suite: str
    tests: str = ""
    passed: int = 0
    total: int = 0
    limits: tuple[str, ...] = ()
    result: Literal["passed", "failed", "not run"]
    text: str = ""
    cure: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A test that failed, or a file of tests that cannot be collected.

    - `test`: The name of the test as a sentence.
    """

    providers: tuple[str, ...]
    suite: str
    test: str
    text: str


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate of a package."""

    package: str
    version: str
    nodekit: str
    api: str | None
    python: str
    backends: tuple[str, ...]
    date: str
    certified: bool
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]


class _Class(msgspec.Struct, frozen=True):
    """A class of tests and its results."""

    found: Found
    ended: tuple[Ended, ...]

    @property
    def asked(self) -> list[Ended]:
        """Results without the tests of something that the component need not have."""
        return [one for one in self.ended if one.outcome != "skipped" or not one.text.startswith(NOT_APPLICABLE)]

    @property
    def total(self) -> int:
        return self.found.items - (len(self.ended) - len(self.asked))

    def count(self, outcome: str) -> int:
        return sum(one.outcome == outcome for one in self.ended)


def uncovered(
    asked: Iterable[Looked], looked: Sequence[Looked], own: Sequence[Message]
) -> Iterator[tuple[Looked, list[str]]]:
    """Yield the providers that lack a test of the package's own, with the suites that can be made for them."""
    for one in asked:
        mine = {each.found.suite for each in _classes_of(one, looked, _classes(own))}
        lacking = [wanted for wanted in needed(one.subject.kind, one.seen.roles) if not wanted & mine]
        suites = [suite for suite in one.seen.suites if suite not in mine]
        if lacking and suites:
            yield one, suites if one.subject.kind != "plugin" else [s for s in suites if any(s in w for w in lacking)]


def certificate(
    package: Package, looked: Sequence[Looked], own: Sequence[Message], made: Mapping[str, Sequence[Message]]
) -> Certificate:
    rows: list[Row] = []
    failures: list[Failure] = [*_broken(own, ())]
    certified = not failures
    for one in looked:
        if not one.asked:
            continue
        of_made = made.get(one.subject.label, ())
        failures += _broken(of_made, (one.subject.label,))
        of_own = _classes_of(one, looked, _classes(own))
        classes = [*of_own, *_classes(of_made)]
        mine = [_row(one, each, made=each not in of_own) for each in classes]
        failures += [failure for each in classes for failure in _failures(one, each)]
        mine += _not_run(one, mine)
        rows += mine
        certified &= _is_certified(one, mine)
    return Certificate(
        package=package.name,
        version=package.version,
        nodekit=nodekit.__version__,
        api=getattr(nodekit, "API_VERSION", None),
        python=platform.python_version(),
        backends=_backends([*own, *(message for each in made.values() for message in each)]),
        date=datetime.now(UTC).date().isoformat(),
        certified=certified and bool(rows) and not failures,
        rows=tuple(rows),
        failures=_merged(failures),
    )


def _classes(messages: Sequence[Message]) -> list[_Class]:
    """Return each class once. A second process reports classes again, without the tests that the first has run."""
    found = {one.id: one for one in reversed(messages) if isinstance(one, Found)}
    ended = {one.id: one for one in messages if isinstance(one, Ended)}
    return [_Class(one, tuple(each for each in ended.values() if each.of == id)) for id, one in sorted(found.items())]


def _classes_of(one: Looked, looked: Sequence[Looked], classes: Iterable[_Class]) -> list[_Class]:
    """Return the classes of tests that are about a provider, since a package may have several of a kind.

    Tests are about the providers whose component has the class that the tests used. If there are none, they are about
    the providers of the same package. Tests that used no component are about all providers. Tests that used a component
    of another package are about none.
    """
    same_kind = [other for other in looked if other.subject.kind == one.subject.kind]
    found: list[_Class] = []
    for each in classes:
        if each.found.kind != one.subject.kind:
            continue
        components = {ended.component for ended in each.ended if ended.component}
        tops = {component.partition(".")[0] for component in components}
        exact = [other for other in same_kind if other.seen.component in components]
        near = [other for other in same_kind if other.subject.value.partition(":")[0].partition(".")[0] in tops]
        if one in (exact or near or ([] if components else same_kind)):
            found.append(each)
    return found


def _row(one: Looked, each: _Class, *, made: bool) -> Row:
    lost = each.total - len(each.asked)
    result: Literal["passed", "failed"] = "passed"
    text = ""
    if failed := each.count("failed"):
        result, text = "failed", f"{counted(failed, 'test')} failed{f', {lost} not run' if lost else ''}"
    elif lost or not each.count("passed"):
        result, text = "failed", f"{counted(lost or each.total, 'test')} not run"
    limits = [*each.found.limits, *(one.text for one in each.asked if one.outcome == "skipped")]
    return Row(
        kind=one.subject.kind,
        provider=one.subject.name,
        suite=each.found.suite,
        tests="" if made else each.found.id,
        passed=each.count("passed"),
        total=each.total,
        limits=tuple(dict.fromkeys([*limits, *(one.seen.limits if made else ())])),
        result=result,
        text=text,
    )


def _not_run(one: Looked, rows: Sequence[Row]) -> Iterator[Row]:
    """Yield a row for each suite that is needed and was not run."""
    done = {row.suite for row in rows}
    for wanted in needed(one.subject.kind, one.seen.roles):
        if not wanted & done:
            yield Row(
                kind=one.subject.kind,
                provider=one.subject.name,
                suite=" or ".join(sorted(wanted)),
                result="not run",
                text=one.seen.reason or "its tests could not be collected",
                cure=one.seen.cure,
            )


def _is_certified(one: Looked, rows: Sequence[Row]) -> bool:
    passed = {row.suite for row in rows if row.result == "passed"}
    return (
        one.seen.imported
        and all(row.result == "passed" for row in rows)
        and all(wanted & passed for wanted in needed(one.subject.kind, one.seen.roles))
    )


def _failures(one: Looked, each: _Class) -> Iterator[Failure]:
    for ended in each.ended:
        if ended.outcome == "failed":
            yield Failure(
                providers=(one.subject.label,), suite=each.found.suite, test=_sentence(ended), text=ended.text
            )


def _broken(messages: Sequence[Message], providers: tuple[str, ...]) -> Iterator[Failure]:
    for one in messages:
        if isinstance(one, Broken):
            yield Failure(providers=providers, suite="", test=one.what, text=one.text)


def _merged(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Merge equal failures, so that a test about several providers is reported once."""
    merged: dict[tuple[str, str, str], Failure] = {}
    for one in failures:
        key = (one.suite, one.test, one.text)
        before = merged[key].providers if key in merged else ()
        merged[key] = msgspec.structs.replace(one, providers=tuple(dict.fromkeys([*before, *one.providers])))
    return tuple(merged.values())


def _sentence(ended: Ended) -> str:
    parameters = ended.id.rpartition("::")[2].partition("[")[2].rstrip("]")
    return ended.test.removeprefix("test_").replace("_", " ") + (f" [{parameters}]" if parameters else "")


def _backends(messages: Iterable[Message]) -> tuple[str, ...]:
    return tuple(sorted({one.backend for one in messages if isinstance(one, Ended) and one.backend}))
