"""The way from a package to its certificate: examine its providers, run its own tests, and make tests for the rest."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from nodekit.cli.certify.messages import (
    ORDER,
    Begun,
    Broken,
    Ended,
    Examined,
    Found,
    Message,
    Order,
    Subject,
    decoded,
    encoded,
)
from nodekit.cli.certify.packages import Package
from nodekit.cli.certify.processes import Finished, run
from nodekit.cli.certify.rows import Certificate, Looked, certificate, uncovered

_MODULE = __name__.rpartition(".")[0]
_RESTARTS = 5
"""Number of tests that may hang, or end their process, before the rest is given up."""
_WELL = (0, 1, 5)
"""Normal exit codes of pytest: all tests passed, some failed, or there were none."""
_NO_OTHER_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Environment of made suites. Other plugins of pytest take time to start, and may change what the tests do."""


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """Options for the certification of a package.

    - `tests`: Files and folders with the package's own tests.
    - `only`: The providers to certify, as ``kind:name``; all if it is empty.
    - `given`: Settings by the name of the provider.
    - `file`: A node file with more settings.
    - `backends`: Event loops for the suites that are made. The package's own tests set theirs themselves.
    - `seconds`: Maximum number of seconds for one test.
    - `start_seconds`: Maximum number of seconds to import a provider, and to collect tests.
    """

    tests: tuple[Path, ...] = ()
    only: tuple[str, ...] = ()
    given: Mapping[str, Mapping[str, Any]] = {}
    file: Path | None = None
    backends: tuple[str, ...] = ("asyncio",)
    seconds: float = 120.0
    start_seconds: float = 60.0


def certify(package: Package, wishes: Wishes, say: Callable[[str], None]) -> Certificate:
    """Certify an installed package. `say` is called with a line of text for each stage."""
    with TemporaryDirectory(prefix="nodekit-certify-", ignore_cleanup_errors=True) as folder:
        return _Certifying(package, wishes, say, Path(folder)).certificate()


class _Certifying:
    def __init__(self, package: Package, wishes: Wishes, say: Callable[[str], None], folder: Path) -> None:
        self._package = package
        self._wishes = wishes
        self._say = say
        self._folder = folder
        self._processes = 0

    def certificate(self) -> Certificate:
        looked = [self._looked_at(subject) for subject in self._subjects()]
        own = self._own_tests()
        asked = [one for one in looked if one.asked]
        made = {one.subject.label: self._made_tests(one, suites) for one, suites in uncovered(asked, looked, own)}
        return certificate(self._package, looked, own, made)

    def _subjects(self) -> list[Subject]:
        """List the providers to examine.

        If the package has tests of its own, other providers of the same kinds are examined, too. They show which
        providers the tests are about.
        """
        subjects = [
            Subject(
                kind=kind,
                name=entry.name,
                value=entry.value,
                given=dict(self._wishes.given.get(entry.name, {})),
                file=self._wishes.file and self._wishes.file.absolute(),
                folder=self._fresh(),
            )
            for kind, entry in self._package.providers
        ]
        asked = [subject for subject in subjects if self._is_asked(subject)]
        kinds = {subject.kind for subject in asked}
        return [subject for subject in subjects if subject.kind in kinds] if self._wishes.tests else asked

    def _is_asked(self, subject: Subject) -> bool:
        return not self._wishes.only or subject.label in self._wishes.only

    # -- one process each -------------------------------------------------------------------------

    def _looked_at(self, subject: Subject) -> Looked:
        if self._is_asked(subject):
            self._say(f"{subject.label}: looking at it")
        folder = self._fresh()
        answer = folder / "answer.json"
        arguments = ["-m", f"{_MODULE}.examine_provider", str(self._written(subject)), str(answer)]
        limit = self._wishes.start_seconds
        finished = run(arguments, folder=folder, life=answer.exists, start_seconds=limit)
        if os.path.exists(answer):
            seen = decoded(answer, Examined)
        else:
            seen = Examined(imported=False, reason=_ended_early(finished, limit), cure="run it again")
        return Looked(subject, seen, self._is_asked(subject))

    def _own_tests(self) -> list[Message]:
        if not self._wishes.tests:
            return []
        self._say(f"tests of the package: {', '.join(map(str, self._wishes.tests))}")
        messages = self._run_tests([str(path.absolute()) for path in self._wishes.tests])
        if not any(isinstance(one, Found) for one in messages):
            self._say("no class there is a subclass of a suite of nodekit.testing")
        return messages

    def _made_tests(self, one: Looked, suites: Sequence[str]) -> list[Message]:
        self._say(f"{one.subject.label}: {', '.join(suites)}")
        folder = self._fresh()
        (folder / "pytest.ini").write_text("[pytest]\n")
        subject = str(self._written(one.subject))
        lines = [f"from {_MODULE}.made_suite import made\n"]
        lines += [f"Test{suite} = made({subject!r}, {suite!r}, {self._wishes.backends!r})\n" for suite in suites]
        file = folder / f"test_{one.subject.kind}.py"
        file.write_text("".join(lines))
        options = ["-c", str(folder / "pytest.ini"), "--noconftest", "-p", "anyio.pytest_plugin"]
        return self._run_tests([*options, str(file)], cwd=folder, **_NO_OTHER_PLUGINS)

    def _written(self, subject: Subject) -> Path:
        file = subject.folder / "subject.json"
        file.write_bytes(encoded(subject))
        return file

    def _fresh(self) -> Path:
        self._processes += 1
        folder = self._folder / str(self._processes)
        folder.mkdir()
        return folder

    # -- tests ------------------------------------------------------------------------------------

    def _run_tests(self, arguments: Sequence[str], *, cwd: Path | None = None, **env: str) -> list[Message]:
        """Run tests and return their messages. After a test that hangs or ends the process, a new one runs the rest."""
        all_messages: list[Message] = []
        for _ in range(_RESTARTS):
            messages, open_test = self._once(arguments, _done(all_messages), cwd, env)
            all_messages += messages
            if open_test is None:
                break
        return all_messages

    def _once(
        self, arguments: Sequence[str], done: tuple[str, ...], cwd: Path | None, env: Mapping[str, str]
    ) -> tuple[list[Message], Begun | None]:
        """Run the tests in one process. Return the messages, and the test that did not end, if there is one."""
        folder = self._fresh()
        report = folder / "report.jsonl"
        order = folder / "order.json"
        order.write_bytes(encoded(Order(report=report, done=done)))
        options = ["-p", f"{_MODULE}.reporter", "-p", "no:cacheprovider", "-W", "default", "--maxfail=0"]
        options += ["--continue-on-collection-errors", f"--basetemp={folder / 'tests'}"]
        options += ["-q", "--no-header", "--tb=no", "--capture=no"]  # shows the last words of a process that dies
        finished = run(
            ["-m", "pytest", *options, *arguments],
            folder=folder,
            life=lambda: _size(report),
            start_seconds=self._wishes.start_seconds,
            seconds=self._wishes.seconds,
            cwd=cwd,
            **env,
            **{ORDER: str(order)},
        )
        messages = _read(report)
        limit = self._wishes.seconds if messages else self._wishes.start_seconds
        why = _ended_early(finished, limit)
        ended = {one.id for one in messages if isinstance(one, Ended)}
        for one in messages:
            if isinstance(one, Begun) and one.id not in ended:
                return [*messages, Ended(id=one.id, of=one.of, test=one.test, outcome="failed", text=why)], one
        if finished.exit_code not in _WELL and not any(isinstance(one, Broken) for one in messages):
            messages.append(Broken("the process of its tests ended unexpectedly", why))
        return messages, None


def _done(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(one.id for one in messages if isinstance(one, Ended))


def _read(report: Path) -> list[Message]:
    """Read the messages of a report. The last line may be cut off and is then left out."""
    messages: list[Message] = []
    with suppress(FileNotFoundError):
        for line in report.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                messages.append(msgspec.json.decode(line, type=Found | Begun | Ended | Broken))
    return messages


def _size(file: Path) -> int:
    return file.stat().st_size if os.path.exists(file) else 0


def _ended_early(finished: Finished, seconds: float) -> str:
    if finished.exit_code is None:
        return f"it did not finish within {seconds:g} s, and was stopped"
    end = f"signal {-finished.exit_code}" if finished.exit_code < 0 else f"exit code {finished.exit_code}"
    return f"its process ended with {end}: {finished.last_lines or 'it printed nothing'}"
