"""Mutants of the core, and the tests that are nearest to them: each small fault that is planted has to be noticed.

`make mutants` runs it, by hand: it takes an hour. `make mutants ARGS="slots backoff"` runs these modules alone.
`near.toml` names the tests nearest to a module; only those run, on asyncio. `equal.toml` names mutants that no test can
notice, with the reason. All other mutants that no test noticed are listed, and make the run fail.

No file is changed. The tests are collected once. Then each mutant gets a process of its own, in which the changed
function replaces the original.
"""

import gc
import inspect
import io
import os
import signal
import sys
import time
import tomllib
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from mutations import Mutant, mutants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Trials:
    """Runs the nearest tests of each module with each of its mutants, instead of all tests."""

    def __init__(self, near: dict[str, list[str]], equal: Sequence[dict[str, str]]) -> None:
        self._near, self._equal = near, equal
        self._said = sys.stdout
        self._failed = False
        self.left = 0
        """Number of mutants that were not noticed and not named as equal, or that are named wrongly."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("not all tests could be collected")
        gc.freeze()
        for module, files in self._near.items():
            places = {ROOT / file: place for place, file in enumerate(files)}
            items = [item for item in session.items if item.path in places and not _on_trio(item)]
            self._module(module, sorted(items, key=lambda item: places[item.path]))
        return True

    def _module(self, module: str, items: list[pytest.Item]) -> None:
        named = {(each["function"], each["was"], each["now"]) for each in self._equal if each["module"] == module}
        begun = time.monotonic()
        if seen := self._noticed(None, module, items, 120):
            pytest.exit(f"{module}: its tests fail as it is: {seen}", returncode=2)
        longest = 3 + (time.monotonic() - begun) / 2  # a mutant that hangs counts as noticed
        alive: list[Mutant] = []
        for mutant in (planted := mutants(ROOT / module)):
            if seen := self._noticed(mutant, module, items, longest):
                items.sort(key=lambda item: item.nodeid != seen)  # it may notice the next one, too
                continue
            alive.append(mutant)
            if mutant.key not in named:
                self._say(f"{module}:{mutant.line}: {mutant.function}\n  - {mutant.was}\n  + {mutant.now}")
        wrong = named - {mutant.key for mutant in alive}
        for function, was, now in wrong:
            self._say(f"{module}: {function}: named as equal, but noticed or gone:\n  - {was}\n  + {now}")
        left = sum(mutant.key not in named for mutant in alive)
        self.left += left + len(wrong)
        counts = f"{len(planted)} mutants, {len(planted) - len(alive)} noticed, {len(alive) - left} equal, {left} left"
        self._say(f"{module}: {counts}; {time.monotonic() - begun:.0f} s")

    def _say(self, text: str) -> None:
        print(text, file=self._said, flush=True)

    def _noticed(self, mutant: Mutant | None, module: str, items: list[pytest.Item], seconds: float) -> str | None:
        """Return the test that fails or exceeds its time, or None."""
        listening, telling = os.pipe()
        if not (child := os.fork()):
            try:
                self._try(mutant, module, items, seconds, telling)
            finally:
                os._exit(1)
        os.close(telling)
        with open(listening) as begun:
            tests = begun.read().split("\n")
        return tests[-1] or "its import" if os.waitpid(child, 0)[1] else None

    def _try(self, mutant: Mutant | None, module: str, items: list[pytest.Item], seconds: float, tell: int) -> None:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        if mutant is not None:
            _replace(module, mutant)
        for item, following in zip(items, [*items[1:], None], strict=True):
            os.write(tell, f"\n{item.nodeid}".encode())
            signal.setitimer(signal.ITIMER_REAL, seconds)  # ends the process
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed:
                return
        os._exit(0)


def _on_trio(item: pytest.Item) -> bool:
    return getattr(getattr(item, "callspec", None), "params", {}).get("anyio_backend") == "trio"


def _replace(module: str, mutant: Mutant) -> None:
    """Give a function the mutant's code, so that it changes for all modules that imported it."""
    name = ".".join(Path(module).with_suffix("").parts)
    other: dict[str, Any] = {"__name__": name, "__builtins__": __builtins__}
    exec(compile(mutant.text, module, "exec", dont_inherit=True), other)
    owner: Any = import_module(name)
    changed: Any = SimpleNamespace(**other)
    for part in mutant.function.split("."):
        holder, owner, changed = owner, inspect.getattr_static(owner, part), inspect.getattr_static(changed, part)
        if not inspect.isclass(owner):
            break
    old, new = _function(owner), _function(changed)
    if old.__code__.co_freevars == new.__code__.co_freevars:
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    else:  # `super` is not called any more
        setattr(holder, part, changed)


def _function(named: Any) -> Any:
    return inspect.unwrap(getattr(named, "fget", None) or getattr(named, "__func__", named))


def main(names: list[str]) -> int:
    near: dict[str, list[str]] = tomllib.loads((HERE / "near.toml").read_text())["near"]
    if unknown := set(names) - {Path(module).stem for module in near}:
        raise SystemExit(f"near.toml has no {', '.join(sorted(unknown))}")
    near = {module: tests for module, tests in near.items() if not names or Path(module).stem in names}
    trials = Trials(near, tomllib.loads((HERE / "equal.toml").read_text()).get("equal", []))
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutants")
    ignored = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of hypothesis, which is imported above
    files = sorted({str(ROOT / file) for files in near.values() for file in files})
    with redirect_stdout(output := io.StringIO()):
        code = pytest.main(["-s", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *ignored, *files], [trials])
    if code:
        print(output.getvalue())
    return int(code or trials.left > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
