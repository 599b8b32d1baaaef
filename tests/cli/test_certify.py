"""`nodekit certify`: the table of a package contains what was shown of it, and nothing else."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from certified import (
    ECHO,
    ECHO_TESTS,
    SHELF,
    Certified,
    certify,
    certify_elsewhere,
    environment,
    install_all_sorts,
    temporary,
)
from components import until
from planted import install
from served import NODEKIT

import nodekit
from nodekit.cli.certify.certifying import Wishes
from nodekit.cli.certify.certifying import certify as run_certify
from nodekit.cli.certify.packages import find_package
from nodekit.cli.certify.table import END, START, between_marks
from nodekit.testing.contracts.stores.storing import Storing

OTHERS = "IdentityContract or ObserverContract or PluginContract or StepContract"
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


class TestLeavesOut(_Pipeline):
    test_check_raises_nothing_but_refusals = None

    @pytest.fixture
    def pipeline(self, request):
        if "restart" in request.node.name:
            pytest.skip("we never restart")
        return Pipeline()

    @pytest.mark.xfail(reason="known since May")
    def test_of_its_own(self):
        raise AssertionError


class TestNeverEnds(_Pipeline):
    @pytest.fixture
    def pipeline(self, request):
        if "check_raises" in request.node.name:
            time.sleep(1000)
        if "restart" in request.node.name:
            print("a last word", flush=True)
            os._exit(7)
        return Pipeline()


def test_that_is_of_no_suite():
    raise AssertionError("this is none of our business")
"""
"""Classes that leave tests out, or that never end."""

GUARD_TESTS = """
import pytest

from nodekit.testing import GuardContract, make_request
from nodekit_sorts import Guard


class Mine(Guard):
    pass


class TestGuard(GuardContract):
    @pytest.fixture
    def guard(self):
        return Mine()

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
    about_records = [name for name in vars(Storing) if name.startswith("test_")]
    assert int(total) - int(passed) == len(about_records) + 1, "it keeps no records of plugins"
    assert row[4] == "passed"
    text = readme.read_text()
    assert text.startswith(f"# Shelf\n\n{START}\n")
    assert done.out.strip() in text
    assert text.endswith(f"{END}\n\nAnd more.\n")
    assert "an old table" not in text
    assert set(shelf.rglob("*")) - kept <= {temporary(shelf)}, "something was left behind"
    assert list(temporary(shelf).iterdir()) == []


OF_ANOTHER = (
    f"{ECHO}\n{ECHO_TESTS}".replace("class EchoRunner(FunctionRunner):\n    pass\n", "")
    .replace("nodekit_echo.build()", "build()")
    .replace("EchoRunner()", "FunctionRunner()")
    .replace("import nodekit_echo\n", "")
    .replace('("asyncio", "trio")', '("trio",)')
)


def test_tests_of_the_package_itself_count_and_what_their_suite_leaves_out_is_a_limit(tmp_path: Path) -> None:
    done = certify(with_echo(tmp_path, test_echo=ECHO_TESTS), "nodekit-echo", "test_echo.py", "--json")
    assert done.exit_code == 0, done.out
    [row] = done.certificate.rows
    assert (row.kind, row.provider, row.suite, row.result) == ("runner", "echo", "ContainerRunnerContract", "passed")
    assert row.tests == "test_echo.py::TestEcho"
    assert 0 < row.passed < row.total
    assert row.limits[0] == "`opaque = False`"
    assert "this runner decodes payloads" in row.limits
    assert set(done.certificate.backends) == {"asyncio", "trio"}
    assert "tests of the package: test_echo.py" in done.err


of_other_tests = pytest.mark.xdist_group("certify other tests")


@pytest.fixture(scope="module")
def other_tests(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    broken = "import nothing_of_this_name\n"
    folder = with_echo(tmp_path_factory.mktemp("echo"), test_another=OF_ANOTHER, test_broken=broken)
    return certify(folder, "nodekit-echo", "test_broken.py", "test_another.py", "--json", "--backend", "trio")


@of_other_tests
def test_tests_that_cannot_be_collected_are_a_failure_and_those_of_another_packages_part_count_for_none(
    other_tests: Certified,
) -> None:
    assert other_tests.exit_code == 1
    failure = other_tests.certificate.failures[0]
    assert failure.test == "test_broken.py cannot be collected"
    assert "nothing_of_this_name" in failure.text
    assert [row.tests for row in other_tests.certificate.rows] == [""], "only tests that are run show whose they are"


@of_other_tests
def test_a_suite_that_is_made_instead_holds_the_part_to_what_it_does_not_say(other_tests: Certified) -> None:
    row = other_tests.row("echo")
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
    row = done.row("function")
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
    rows = {row.provider: (row.suite, row.result) for row in sorts.certificate.rows}
    assert rows == {
        "dice": ("PipelineContract", "failed"),
        "guard": ("GuardContract", "passed"),
        "doorman": ("GuardContract", "passed"),
        "observer": ("ObserverContract", "passed"),
        "misspelt": (f"GuardContract or {OTHERS}", "not run"),
    }
    assert "nobody has said what containers answer" in sorts.row("dice").limits


@of_sorts
def test_of_several_providers_one_is_certified_by_tests_of_its_own_part_or_of_a_kind_of_it(sorts: Certified) -> None:
    guard = sorts.row("guard")
    assert (guard.tests, guard.limits) == ("test_guard.py::TestGuard", ())
    assert guard.passed == guard.total, "what it need not have is not counted"


@of_sorts
def test_for_providers_that_no_tests_are_about_suites_are_made(sorts: Certified) -> None:
    doorman, observer = sorts.row("doorman"), sorts.row("observer")
    assert (doorman.tests, observer.tests) == ("", "")
    assert any("`unwelcome`" in limit for limit in doorman.limits), "nobody said whom it refuses"


# -- packages that do not -------------------------------------------------------------------------


@of_sorts
def test_a_provider_that_breaks_its_promise_has_failed_and_its_failures_say_so(sorts: Certified) -> None:
    row = sorts.row("dice")
    failed = [one for one in sorts.certificate.failures if one.providers == ("pipeline:dice",)]
    assert any(one.test.startswith("the same job always gets") for one in failed), failed
    assert row.text == f"{len(failed)} test{'s' * (len(failed) > 1)} failed"
    assert 0 < row.passed < row.total
    assert (sorts.exit_code, sorts.certificate.certified) == (1, False)


@of_sorts
def test_a_plugin_with_a_hook_that_is_none_is_told_the_nearest_one(sorts: Certified) -> None:
    assert "did you mean nodekit_observe?" in sorts.row("misspelt").text


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Certified, dict[str, list[str]]]]:
    """Certify the misbehaving classes once; return the cells of each in the table."""
    folder = tmp_path_factory.mktemp("classes")
    install_all_sorts(folder)
    (folder / "test_classes.py").write_text(CLASSES)
    done = certify(folder, "nodekit-sorts", "test_classes.py", "--timeout", "10", "--provider", "pipeline:dice")
    rows = {re.sub(r".*\(`(\w+)`\)", r"\1", cells[1]): cells for cells in rows_of(done.out)}
    assert set(rows) == set(re.findall(r"^class (Test\w+)", CLASSES, re.MULTILINE))
    yield done, rows
    assert list(temporary(folder).iterdir()) == []


Classes = tuple[Certified, dict[str, list[str]]]
of_classes = pytest.mark.xdist_group("certify classes")


@of_classes
def test_what_suite_and_class_leave_out_and_a_setting_that_differs_are_limits(classes: Classes) -> None:
    *_, limits, _ = classes[1]["TestLeavesOut"]
    assert "`timeout_seconds = 19.0`" in limits
    assert "return from `refused` requests that it refuses" in limits
    assert "we never restart" in limits
    assert "known since May" in limits


@of_classes
def test_tests_of_the_suite_that_were_not_run_are_a_failure_and_those_that_were_skipped_are_not(
    classes: Classes,
) -> None:
    done, rows = classes
    assert rows["TestLeavesOut"][-1] == "**1 test not run**"
    assert done.exit_code == 1


@of_classes
def test_tests_that_do_not_end_are_failures_and_the_others_are_run(classes: Classes) -> None:
    done, rows = classes
    assert rows["TestNeverEnds"][-1] == "**2 tests failed**"
    passed, total = map(int, rows["TestNeverEnds"][2].split("/"))
    assert total - passed == 3, "they, and what the suite itself leaves out"
    assert re.search(r"\*\*check raises nothing but refusals\*\*\s+```text\s+it did not finish within 10 s", done.out)
    assert re.search(
        r"\*\*a job goes on after a restart\*\*\s+```text\s+its process ended with exit code 7: .*", done.out
    )
    assert "a last word" in done.out
    assert "none of our business" not in done.out, "that test is of no suite"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("import os; print('bye'); os._exit(5)", "exit code 5: "),
        (SHELF.replace("path: Path", "path: Path\n    url: str"), "'url'"),
        (SHELF.replace("ShelfStore(config.path))", "1 / 0)"), "ZeroDivisionError"),
    ],
    ids=["exits", "ends", "settings", "builder"],
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


def test_a_package_without_providers_says_so(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-empty", "")
    done = certify(tmp_path, "nodekit-empty")
    assert done.exit_code == 1
    assert "nodekit-empty 1.0 has nothing to certify" in done.err
    assert "nodekit.stores" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nodekit-shlf"], "did you mean 'nodekit-shelf'?"),
        (["shelf"], "did you mean 'nodekit-shelf', which provides 'shelf'?"),
        (["nodekit-shelf", "--provider", "store:shelv"], "store:shelf"),
        (["nodekit-shelf", "--set", "shelv.path=x"], "'shelv'"),
        (["nodekit-shelf", "--set", "shelf"], "NAME.KEY=VALUE"),
        (["nodekit-shelf", "--output", "plain.md"], START),
        (["nodekit-shelf", "missing_tests"], "missing_tests"),
    ],
)
def test_a_wrong_command_line_is_said_before_anything_runs(shelf: Path, arguments: list[str], words: str) -> None:
    (shelf / "plain.md").write_text("no marks\n")
    done = certify(shelf, *arguments)
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
    for settings, words in (
        (["echo.size=3", 'echo.texts=["a", "b"]'], "3 ('a', 'b')"),
        (["echo.size=many"], "size: expected a whole number"),
    ):
        given = [argument for setting in settings for argument in ("--set", setting)]
        [row] = certify(tmp_path, "nodekit-echo", "--json", *given).certificate.rows
        assert words in row.text


# -- what it leaves, and what it takes ------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_leaves_no_process_behind_however_it_ends(tmp_path: Path) -> None:
    echo = with_echo(tmp_path, test_hangs=HANGS)
    command = [*NODEKIT, "certify", "nodekit-echo", "test_hangs.py"]
    with subprocess.Popen(command, cwd=echo, env=environment(echo), stderr=subprocess.DEVNULL) as process:
        try:
            await until(lambda: (echo / "pids").exists() and (echo / "pids").read_text().endswith("\n"), seconds=120)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    await until(lambda: not any(map(runs, (echo / "pids").read_text().split())))
    assert list(temporary(echo).iterdir()) == []


def test_without_pytest_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pytest'] = None\n")
    done = certify_elsewhere(tmp_path, "nodekit-compute")
    assert done.exit_code == 1
    assert "pip install pytest" in done.err


def test_pytest_is_not_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = "import sys, nodekit.cli; sys.exit('_pytest' in sys.modules or 'pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


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


def runs(pid: str) -> bool:
    """Return True if a process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
