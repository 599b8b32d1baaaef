"""`nodekit certify`: the table of a package contains what was shown of it, and nothing else."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from certified import (
    ALL_SORTS,
    ECHO,
    ECHO_TESTS,
    SHELF,
    Certified,
    certify,
    certify_elsewhere,
    environment,
    imported,
    install,
    install_all_sorts,
    temporary,
)
from served import NODEKIT

import nodekit
from nodekit import ContainerOutput, ContainerRunner, Step
from nodekit.cli.certify.certifying import Wishes
from nodekit.cli.certify.certifying import certify as run_certify
from nodekit.cli.certify.packages import find_package
from nodekit.cli.certify.rows import Row
from nodekit.cli.certify.suite_limits import limits_of
from nodekit.cli.certify.table import END, START, between_marks
from nodekit.testing import ContainerRunnerContract

pytestmark = pytest.mark.timeout(400)  # the suites run in other processes, and machines are busy


CLASSES = """
import os
import time

import pytest

from nodekit.testing import PipelineContract
from nodekit_sorts import Pipeline


class _Pipeline(PipelineContract):
    containers = ("echo",)
    timeout_seconds = 19.0

    @pytest.fixture
    def pipeline(self):
        return Pipeline()


class TestOverrides(_Pipeline):
    def test_check_raises_nothing_but_refusals(self, pipeline):
        pass


class TestRemoves(_Pipeline):
    test_check_raises_nothing_but_refusals = None


class TestMarks(_Pipeline):
    pytestmark = [pytest.mark.anyio, pytest.mark.xfail(strict=False)]


class TestSkips(_Pipeline):
    @pytest.fixture
    def pipeline(self, request):
        if "restart" in request.node.name:
            pytest.skip("we never restart")
        return Pipeline()

    def test_of_its_own(self):
        pytest.skip("it is of no suite")


class TestHangs(_Pipeline):
    @pytest.fixture
    def pipeline(self, request):
        if "check_raises" in request.node.name:
            time.sleep(1000)
        return Pipeline()


class TestDies(_Pipeline):
    @pytest.fixture
    def pipeline(self, request):
        if "check_raises" in request.node.name:
            print("a last word", flush=True)
            os._exit(7)
        return Pipeline()


def test_that_is_of_no_suite():
    raise AssertionError("this is none of our business")
"""
"""Classes that misrepresent themselves, or that never end."""

IMPURE = """
    numbers = itertools.count()

    def next_step(self, job):
        step = super().next_step(job)
        return step and msgspec.structs.replace(step, index=step.index + next(self.numbers) % 2)
"""
"""A pipeline that answers differently each time."""

GUARD_TESTS = """
import pytest

from nodekit.testing import GuardContract, make_request
from nodekit_sorts import Guard


class TestGuard(GuardContract):
    @pytest.fixture
    def guard(self):
        return Guard()

    def welcome(self):
        return [make_request()]

    def unwelcome(self):
        return [make_request(client="mallory")]
"""


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    install(tmp_path, "nodekit-shelf", SHELF, stores="shelf")
    return tmp_path


def with_echo(folder: Path, **tests: str) -> Path:
    """Return the folder, with a runner and files of tests in it."""
    install(folder, "nodekit-echo", ECHO, runners="echo")
    for name, code in tests.items():
        (folder / f"{name}.py").write_text(code)
    return folder


def row_of(done: Certified, provider: str) -> Row:
    [row] = [row for row in done.certificate.rows if row.provider == provider]
    return row


# -- packages that keep what they promise ---------------------------------------------------------


def test_a_store_with_a_path_is_built_again_on_it_and_its_table_goes_into_the_readme(shelf: Path) -> None:
    readme = shelf / "README.md"
    readme.write_text(f"# Shelf\n\n{START}\nan old table\n{END}\n\nAnd more.\n")
    kept = set(shelf.rglob("*"))
    done = certify_elsewhere(shelf, "nodekit_shelf", "--output", "README.md")
    assert done.exit_code == 0, done.out
    head = done.out.partition("\n")[0]
    assert head.startswith("nodekit-shelf 1.0: **certified** by nodekit-compute")
    assert nodekit.__version__ in head
    assert "asyncio" in head
    (row,) = rows_of(done.out)
    assert row[0] == "store `shelf`"
    assert row[1] == "`DurableJobStoreContract`"
    passed, _, total = row[2].partition("/")
    assert passed == total
    assert row[4] == "passed"
    text = readme.read_text()
    assert text.startswith(f"# Shelf\n\n{START}\n")
    assert done.out.strip() in text
    assert text.endswith(f"{END}\n\nAnd more.\n")
    assert "an old table" not in text
    assert set(shelf.rglob("*")) - kept <= {temporary(shelf)}, "something was left behind"
    assert list(temporary(shelf).iterdir()) == []


OF_A_KIND_OF_ITS_OWN = (
    ECHO_TESTS.replace("nodekit_echo.build()", "changed(nodekit_echo.build())").replace(
        '("asyncio", "trio")', '("trio",)'
    )
    + """

class Mine(nodekit_echo.EchoRunner):
    pass


def changed(runner):
    runner.__class__ = Mine
    return runner
"""
)
OF_ANOTHER = (
    f"{ECHO}\n{ECHO_TESTS}".replace("class EchoRunner(FunctionRunner):\n    pass\n", "")
    .replace("nodekit_echo.build()", "build()")
    .replace("EchoRunner()", "FunctionRunner()")
    .replace("import nodekit_echo\n", "")
    .replace('("asyncio", "trio")', '("trio",)')
)


of_own_tests = pytest.mark.xdist_group("certify own tests")


@pytest.fixture(scope="module")
def own_tests(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    folder = with_echo(tmp_path_factory.mktemp("echo"), test_echo=ECHO_TESTS, test_kind=OF_A_KIND_OF_ITS_OWN)
    return certify(folder, "nodekit-echo", "test_echo.py", "test_kind.py", "--json")


@of_own_tests
def test_tests_of_the_package_itself_count_and_what_their_suite_leaves_out_is_a_limit(own_tests: Certified) -> None:
    assert own_tests.exit_code == 0, own_tests.out
    row = own_tests.certificate.rows[0]
    assert (row.kind, row.provider, row.suite, row.result) == ("runner", "echo", "ContainerRunnerContract", "passed")
    assert row.tests == "test_echo.py::TestEcho"
    assert 0 < row.passed < row.total
    assert row.limits[0] == "`opaque = False`"
    assert "this runner decodes payloads" in row.limits
    assert set(own_tests.certificate.backends) == {"asyncio", "trio"}
    assert "tests of the package: test_echo.py, test_kind.py" in own_tests.err


@of_own_tests
def test_tests_of_a_kind_of_its_own_of_the_part_count(own_tests: Certified) -> None:
    assert [row.tests for row in own_tests.certificate.rows] == ["test_echo.py::TestEcho", "test_kind.py::TestEcho"]


of_other_tests = pytest.mark.xdist_group("certify other tests")


@pytest.fixture(scope="module")
def other_tests(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    broken = "import nothing_of_this_name\n"
    folder = with_echo(tmp_path_factory.mktemp("echo"), test_another=OF_ANOTHER, test_broken=broken)
    return certify(folder, "nodekit-echo", "test_broken.py", "test_another.py", "--json", "--backend", "trio")


@of_other_tests
def test_tests_of_another_packages_part_say_nothing_of_a_provider(other_tests: Certified) -> None:
    assert other_tests.exit_code == 1
    assert [row.tests for row in other_tests.certificate.rows] == [""]


@of_other_tests
def test_tests_that_cannot_be_collected_are_a_failure_and_the_others_are_run(other_tests: Certified) -> None:
    failure = other_tests.certificate.failures[0]
    assert failure.test == "test_broken.py cannot be collected"
    assert "nothing_of_this_name" in failure.text
    assert not other_tests.row("ContainerRunnerContract").tests, "only tests that are run show what they are about"


@of_other_tests
def test_a_suite_that_is_made_instead_holds_the_part_to_what_it_does_not_say(other_tests: Certified) -> None:
    row = other_tests.row("ContainerRunnerContract")
    assert (row.total - row.passed, row.result) == (1, "failed")
    failure = other_tests.certificate.failures[1]
    assert failure.providers == ("runner:echo",)
    assert failure.test == "digits and duplicate keys pass unchanged [trio]"
    assert "out of range" in failure.text
    assert any("no container `endless`, `broken`" in limit for limit in row.limits)
    assert other_tests.certificate.backends == ("trio",)


def test_a_node_file_gives_what_no_default_can(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(FUNCTIONS)
    containers = "".join(
        f'[[runners.containers]]\nid = "{id}"\ncall = "calls.py:{id}"\nexternal = true\n' for id in CALLS
    )
    (tmp_path / "node.toml").write_text(
        f'[store]\nuse = "memory"\n[[runners]]\nuse = "function"\n{containers}[[plugins]]\nuse = "guardian"\n'
    )
    only = ("nodekit-compute", "--provider", "runner:function", "--json")
    without = certify(tmp_path, *only)
    assert without.exit_code == 1
    [row] = without.certificate.rows
    assert row.result == "not run"
    assert all(f"`{id}`" in row.text for id in ("echo", "fail", "slow"))
    assert "--with FILE" in row.cure
    done = certify(tmp_path, *only, "--with", "node.toml")
    row = done.row("StreamingRunnerContract")
    assert row.total - row.passed == 1, "digits: a function decodes its data"
    assert row.text == "1 test failed"


of_sorts = pytest.mark.xdist_group("certify sorts")


@pytest.fixture(scope="module")
def sorts(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    folder = tmp_path_factory.mktemp("sorts")
    install_all_sorts(folder)
    (folder / "test_guard.py").write_text(GUARD_TESTS)
    return certify(folder, "nodekit-sorts", "test_guard.py", "--json")


@of_sorts
def test_a_guard_an_observer_and_a_pipeline_are_each_held_to_their_suite(sorts: Certified) -> None:
    assert sorts.exit_code == 0, sorts.out
    suites = {row.provider: row.suite for row in sorts.certificate.rows}
    assert suites == {
        "pipeline": "PipelineContract",
        "guard": "GuardContract",
        "doorman": "GuardContract",
        "observer": "ObserverContract",
    }
    assert all(row.passed for row in sorts.certificate.rows)
    assert "`answer` does not define the outputs of containers" in row_of(sorts, "pipeline").limits


@of_sorts
def test_of_several_providers_one_is_certified_by_tests_of_its_own_part(sorts: Certified) -> None:
    guard = row_of(sorts, "guard")
    assert (guard.tests, guard.limits) == ("test_guard.py::TestGuard", ())
    assert guard.passed == guard.total, "what it need not have is not counted"


@of_sorts
def test_for_providers_that_no_tests_are_about_suites_are_made(sorts: Certified) -> None:
    doorman, observer = row_of(sorts, "doorman"), row_of(sorts, "observer")
    assert (doorman.tests, observer.tests) == ("", "")
    assert any("`unwelcome`" in limit for limit in doorman.limits), "nobody said whom it refuses"


# -- packages that do not -------------------------------------------------------------------------

BREAKS = {
    "guard": ('request.client == "mallory"', "len(request.containers[7]) > 1", "whatever a client sends"),
    "observer": ("self.finished += 1", "event.nothing", "it observes jobs"),
    "pipeline": (
        "class Pipeline(Sequence):\n    pass",
        f"class Pipeline(Sequence):{IMPURE}",
        "the same job always gets",
    ),
    "doorman": ("class Doorman(Guard):\n    pass", "class Doorman:\n    nodekit_observes = print", ""),
}


of_broken_sorts = pytest.mark.xdist_group("certify broken sorts")


@pytest.fixture(scope="module")
def broken_sorts(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    folder, code = tmp_path_factory.mktemp("sorts"), ALL_SORTS
    for old, new, _ in BREAKS.values():
        assert old in code
        code = code.replace(old, new)
    install_all_sorts(folder, code)
    return certify(folder, "nodekit-sorts", "--json")


@of_broken_sorts
@pytest.mark.parametrize("provider", ["guard", "observer", "pipeline"])
def test_a_provider_that_breaks_its_promise_has_failed_and_its_failures_say_so(
    broken_sorts: Certified, provider: str
) -> None:
    row = row_of(broken_sorts, provider)
    failed = [one for one in broken_sorts.certificate.failures if one.providers == (f"{row.kind}:{provider}",)]
    assert any(one.test.startswith(BREAKS[provider][-1]) for one in failed), failed
    assert row.result == "failed"
    assert row.text == f"{len(failed)} test{'s' * (len(failed) > 1)} failed"
    assert 0 < row.passed < row.total


@of_broken_sorts
def test_a_package_whose_providers_break_their_promises_is_not_certified(broken_sorts: Certified) -> None:
    assert (broken_sorts.exit_code, broken_sorts.certificate.certified) == (1, False)


@of_broken_sorts
def test_a_plugin_with_a_hook_that_is_none_is_told_the_nearest_one(broken_sorts: Certified) -> None:
    row = row_of(broken_sorts, "doorman")
    assert row.result == "not run"
    assert "did you mean nodekit_observe?" in row.text


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Certified, dict[str, list[str]]]]:
    """Certify the misbehaving classes once; return the cells of each in the table."""
    folder = tmp_path_factory.mktemp("classes")
    install_all_sorts(folder)
    (folder / "test_classes.py").write_text(CLASSES)
    done = certify(folder, "nodekit-sorts", "test_classes.py", "--timeout", "10", "--provider", "pipeline:pipeline")
    rows = {re.sub(r".*\(`(\w+)`\)", r"\1", cells[1]): cells for cells in rows_of(done.out)}
    assert set(rows) == set(re.findall(r"^class (Test\w+)", CLASSES, re.MULTILINE))
    yield done, rows
    assert list(temporary(folder).iterdir()) == []


Classes = tuple[Certified, dict[str, list[str]]]
of_classes = pytest.mark.xdist_group("certify classes")


@of_classes
@pytest.mark.parametrize("name", ["TestOverrides", "TestRemoves"])
def test_a_class_that_changes_a_test_of_its_suite_is_found_out(classes: Classes, name: str) -> None:
    done, rows = classes
    assert rows[name][-1] == "**1 test changed: test_check_raises_nothing_but_refusals**"
    assert done.exit_code == 1


@of_classes
def test_a_class_that_has_marked_its_tests_is_found_out(classes: Classes) -> None:
    assert re.fullmatch(r"\*\*\d+ tests changed: test_.* and \d+ more\*\*", classes[1]["TestMarks"][-1])


@of_classes
def test_a_class_that_skips_a_test_of_its_suite_is_found_out_but_what_is_its_own_it_may_skip(classes: Classes) -> None:
    *_, limits, result = classes[1]["TestSkips"]
    assert result == "**1 test changed: test_a_job_goes_on_after_a_restart**"
    assert "we never restart" not in limits
    assert "it is of no suite" in limits


@of_classes
def test_what_the_suite_leaves_out_and_a_setting_that_differs_are_limits(classes: Classes) -> None:
    *_, limits, _ = classes[1]["TestOverrides"]
    assert "`timeout_seconds = 19.0`" in limits
    assert "return from `refused` requests that it refuses" in limits


def test_a_class_that_looks_in_its_own_way_says_so() -> None:
    class Patches(ContainerRunnerContract):
        async def outcome(self, runner: ContainerRunner, step: Step) -> ContainerOutput:
            raise AssertionError

        def nothing_is_left(self, runner: ContainerRunner) -> bool:
            return True

    assert list(limits_of(Patches, ContainerRunnerContract)) == ["its own `outcome`"]


@of_classes
@pytest.mark.parametrize(
    ("name", "words"), [("TestHangs", "did not finish within 10 s"), ("TestDies", "a last word")], ids=["hangs", "dies"]
)
def test_a_test_that_does_not_end_is_a_failure_and_the_others_are_run(classes: Classes, name: str, words: str) -> None:
    done, rows = classes
    assert rows[name][-1] == "**1 test failed**"
    passed, total = map(int, rows[name][2].split("/"))
    assert total - passed == 2, "it, and what the suite itself leaves out"
    assert words in done.out
    assert done.out.count("**check raises nothing but refusals**") == 2


@of_classes
def test_tests_of_no_suite_are_not_run(classes: Classes) -> None:
    assert "none of our business" not in classes[0].out


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("provider = 7", "is not a Provider"),
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("import os; print('bye'); os._exit(5)", "exit code 5: "),
        (SHELF.replace("path: Path", "path: Path\n    url: str"), "'url'"),
        (SHELF.replace("ShelfStore(config.path))", "1 / 0)"), "ZeroDivisionError"),
    ],
    ids=["missing", "no provider", "exits", "ends", "settings", "builder"],
)
def test_a_provider_that_cannot_be_used_is_not_run_for_a_reason(tmp_path: Path, code: str, words: str) -> None:
    install(tmp_path, "nodekit-shelf", code, stores="shelf")
    done = certify(tmp_path, "nodekit-shelf", "--json")
    assert done.exit_code == 1
    [row] = done.certificate.rows
    assert (row.kind, row.provider, row.result, row.total) == ("store", "shelf", "not run", 0)
    assert words in row.text
    assert row.cure
    assert not done.certificate.certified


def test_an_import_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "nodekit-shelf", "import time; time.sleep(1000)", stores="shelf")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told: list[str] = []
    [row] = run_certify(find_package("nodekit-shelf"), Wishes(start_seconds=1), told.append).rows
    assert (row.result, row.text) == ("not run", "it did not finish within 1 s, and was stopped")
    assert told == ["store:shelf: looking at it"]


# -- which package, which offers, which settings --------------------------------------------------


def test_a_name_that_is_not_installed_has_a_nearest_one(shelf: Path) -> None:
    done = certify(shelf, "nodekit-shlf")
    assert done.exit_code == 2
    assert "did you mean 'nodekit-shelf'?" in done.err


def test_the_name_of_a_provider_has_the_package_that_offers_it(shelf: Path) -> None:
    done = certify(shelf, "shelf")
    assert done.exit_code == 2
    assert "did you mean 'nodekit-shelf', which provides 'shelf'?" in done.err


def test_a_package_without_providers_says_so(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-empty", "")
    done = certify(tmp_path, "nodekit-empty")
    assert done.exit_code == 1
    assert "nodekit-empty 1.0 has nothing to certify" in done.err
    assert "nodekit.stores" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "store:shelv"], "store:shelf"),
        (["--set", "shelv.path=x"], "'shelv'"),
        (["--set", "shelf"], "NAME.KEY=VALUE"),
        (["--output", "plain.md"], START),
        (["missing_tests"], "missing_tests"),
    ],
)
def test_a_wrong_command_line_is_said_before_anything_runs(shelf: Path, arguments: list[str], words: str) -> None:
    (shelf / "plain.md").write_text("no marks\n")
    done = certify(shelf, "nodekit-shelf", *arguments)
    assert (done.exit_code, done.out) == (2, "")
    assert words in done.err


def test_settings_of_the_command_line_reach_the_provider(tmp_path: Path) -> None:
    code = ECHO.replace("runner = EchoRunner()", "raise ValueError(f'{config.size} {config.texts}')")
    install(
        tmp_path,
        "nodekit-echo",
        code.replace("size: int = 1", "size: int = 1\n    texts: tuple[str, ...] = ()"),
        runners="echo",
    )
    done = certify(tmp_path, "nodekit-echo", "--json", "--set", "echo.size=3", "--set", 'echo.texts=["a", "b"]')
    [row] = done.certificate.rows
    assert "3 ('a', 'b')" in row.text
    done = certify(tmp_path, "nodekit-echo", "--json", "--set", "echo.size=many")
    [row] = done.certificate.rows
    assert "size: expected a whole number" in row.text


# -- what it leaves, and what it takes ------------------------------------------------------------


def test_it_leaves_no_process_behind_however_it_ends(tmp_path: Path) -> None:
    echo = with_echo(tmp_path, test_hangs=HANGS)
    command = [*NODEKIT, "certify", "nodekit-echo", "test_hangs.py"]
    with subprocess.Popen(command, cwd=echo, env=environment(echo, {}), stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: (echo / "pids").exists() and (echo / "pids").read_text().endswith("\n"))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    for pid in map(int, (echo / "pids").read_text().split()):
        wait_for(lambda pid=pid: not runs(pid))
    assert list(temporary(echo).iterdir()) == []


def test_without_pytest_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pytest'] = None\n")
    done = certify_elsewhere(tmp_path, "nodekit-compute")
    assert done.exit_code == 1
    assert "pip install pytest" in done.err


def test_pytest_is_not_imported_before_it_is_needed(tmp_path: Path) -> None:
    assert not [name for name in imported(tmp_path, "import nodekit.cli") if name.startswith(("pytest", "_pytest"))]


def test_a_table_goes_only_between_its_marks() -> None:
    assert between_marks(f"a{START}b{END}c", "new") == f"a{START}\n\nnew\n\n{END}c"
    for text in ("", START, END, f"{END}{START}"):
        with pytest.raises(nodekit.NodekitError, match="write each on a line of its own"):
            between_marks(text, "new")


CALLS = ("echo", "fail", "slow", "endless", "broken")
FUNCTIONS = """
import anyio

async def echo(data):
    return data

async def fail(data):
    raise ValueError("as asked")

async def slow(data):
    await anyio.sleep(1000)

async def endless(data):
    while True:
        await anyio.lowlevel.checkpoint()
        yield "x" * 1000

async def broken(data):
    yield b"half"
    raise ValueError("on purpose")
"""

HANGS = """
import os
import pathlib
import subprocess
import sys
import time

import pytest

from nodekit.testing import ContainerRunnerContract


class TestHangs(ContainerRunnerContract):
    @pytest.fixture
    def runner(self):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        pathlib.Path("pids").write_text(f"{os.getpid()} {child.pid}\\n")
        time.sleep(1000)
"""


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of each row."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert lines[0].count("|") == 6
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def runs(pid: int) -> bool:
    """Return True if a process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(holds: "object") -> None:
    until = time.monotonic() + 120
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.02)
