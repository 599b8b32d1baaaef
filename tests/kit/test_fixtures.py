"""A third party's test files: a subclass and one fixture, or the fixtures of the plugin. Pytest itself runs them."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from paths import ROOT

from nodekit import testing
from nodekit.testing import pytest_plugin

pytestmark = [pytest.mark.xdist_group("fixtures of the kit"), pytest.mark.timeout(600)]

WITHOUT = ("-p", "no:xdist", "-p", "no:schemathesis", "-p", "no:hypothesispytest")  # the last imports trio by itself

SUITE = """
import pytest
from nodekit import Sequence
from nodekit.testing import PipelineContract

class Mine(PipelineContract):
    @pytest.fixture
    def pipeline(self):
        return Sequence()
"""
TESTS = {
    "test_loops.py": SUITE
    + """
class TestPlain(Mine):
    pass

class TestBoth(Mine):
    backends = ("asyncio", "trio")

class TestOwn(Mine):
    backends = ("asyncio",)

    @pytest.fixture(params=["trio"])
    def anyio_backend(self, request):
        return request.param

class TestMarked(Mine):
    @pytest.mark.parametrize("anyio_backend", ["trio"])
    async def test_of_my_own(self, pipeline):
        pass
""",
    "test_module.py": SUITE
    + """
@pytest.fixture(params=["trio"])
def anyio_backend(request):
    return request.param

class TestOfTheModule(Mine):
    pass

class TestSaid(Mine):
    backends = ("asyncio",)
""",
    "test_node.py": """
import asyncio, os, threading, time
import pytest
from nodekit import EmbeddedStore, JobStatus, Refusal, Sequence
from nodekit.testing import make_request, make_table

pytestmark = pytest.mark.anyio
left = []

@pytest.fixture
def anyio_backend():
    return "asyncio"

async def test_plain(no_leaks, unblocked_loop, no_leaked_tasks, no_leaked_descriptors, no_leaked_threads, node):
    assert set(node.running()) == {"echo", "fail", "slow"}
    jobs = [await node.submit(make_request(id)) for id in ("echo", "fail")]
    assert [job.status for job in await node.wait([job.id for job in jobs])] == [JobStatus.SUCCESS, JobStatus.FAILED]

class Bouncer:
    async def nodekit_admit(self, request):
        if request.client == "mallory":
            raise Refusal("Not you")

class TestComposed:
    @pytest.fixture
    def node_plugins(self):
        return [Bouncer()]

    @pytest.fixture
    def node_pipelines(self):
        return {"mine": Sequence()}

    @pytest.fixture
    def node_settings(self):
        return {"name": "tested"}

    @pytest.fixture
    def node_store(self, faults):
        return EmbeddedStore(faults.around(make_table()))

    async def test_composed(self, virtual_clock, node, function_runner, faults):
        assert node.name == "tested"
        assert set(function_runner.containers) == set(node.containers)
        with pytest.raises(Refusal, match="Not you"):
            await node.submit(make_request(client="mallory"))
        job = await node.submit(make_request(pipeline="mine"))
        await node.wait([job.id])
        assert faults.count("save") == 1
        await virtual_clock.advance(3600)

over = threading.Event()

def teardown_module():
    over.set()

async def test_task(no_leaked_tasks):
    left.append(asyncio.create_task(asyncio.sleep(600), name="pushing"))

async def test_descriptor(no_leaked_descriptors):
    left.append(os.open(".", os.O_RDONLY))

async def test_any(no_leaks):
    left.append(os.open(".", os.O_RDONLY))

async def test_thread(no_leaked_threads):
    threading.Thread(target=over.wait, name="writer").start()

async def test_block(unblocked_loop):
    time.sleep(1)
""",
}


def run(folder: Path, tests: Mapping[str, str], *arguments: str) -> str:
    """Run pytest on these tests alone in a folder; return its output."""
    for name, text in tests.items():
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    ran = subprocess.run(
        [sys.executable, *arguments, "-v", "-p", "no:cacheprovider", *WITHOUT],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tests")
    return run(
        folder, TESTS, "-m", "pytest", "-p", "nodekit.testing.pytest_plugin", "-k", "takes_jobs or of_my or test_node"
    )


def loops(told: str, name: str) -> Sequence[str]:
    """Return the event loops on which a class passed."""
    return re.findall(rf"::Test{name}::test_a_node_takes_jobs_to_their_end\[(\w+)\] PASSED", told)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Plain", ["asyncio"]),
        ("Both", ["asyncio", "trio"]),
        ("Own", ["trio"]),
        ("OfTheModule", ["trio"]),
        ("Said", ["asyncio"]),
        ("Marked", ["asyncio"]),
    ],
    ids=["by default", "the class", "its fixture first", "the module", "not the module", "a mark of one test"],
)
def test_a_suite_runs_on_the_event_loops_that_its_tests_say(told: str, name: str, expected: Sequence[str]) -> None:
    assert sorted(loops(told, name)) == expected


def test_a_mark_on_one_test_says_it_for_that_one(told: str) -> None:
    assert "TestMarked::test_of_my_own[trio] PASSED" in told


def test_a_node_is_a_fixture(told: str) -> None:
    assert "::test_plain PASSED" in told


def test_a_node_is_made_of_fixtures_that_can_be_defined_anew(told: str) -> None:
    assert "::TestComposed::test_composed PASSED" in told


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("task", "pushing, in"),
        ("descriptor", "1 file descriptors were left open"),
        ("any", "1 file descriptors were left open"),
        ("thread", "writer \\("),
        ("block", "the event loop did not go round"),
    ],
)
def test_each_detector_is_a_fixture_that_fails_its_test(told: str, test: str, words: str) -> None:
    assert f"test_node.py::test_{test} ERROR" in told
    assert re.search(rf"ERROR at teardown of test_{test} (?s:.)*{words}", told)


def test_a_subclass_and_one_fixture_is_a_whole_test_file_and_asks_for_no_other_loop(tmp_path: Path) -> None:
    without_trio = "import sys, pytest; sys.modules['trio'] = None; pytest.main()"
    tests = {"test_mine.py": SUITE.replace("Mine", "TestMine"), "test_it.py": "def test_it(node): pass"}
    told = run(tmp_path, tests, "-c", without_trio)
    assert re.search(r"\d+ passed, 1 skipped", told), told
    assert "trio" not in told
    assert "fixture 'node' not found" in told, "it comes with the plugin"


def test_the_reference_names_all_of_the_kit() -> None:
    page = (ROOT / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
    source = ast.parse(Path(pytest_plugin.__file__).read_text(encoding="utf-8"))
    functions = [node for node in source.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    fixtures = {node.name for node in functions if "pytest.fixture" in map(ast.unparse, node.decorator_list)}
    assert fixtures >= {"node", "function_runner", "virtual_clock", "faults", "unblocked_loop"}
    words = set(re.findall(r"`(\w+)", page))
    assert {*fixtures, *testing.__all__} - words == set()


def test_importing_the_kit_imports_no_plugin_and_no_trio() -> None:
    code = "import sys, nodekit.testing; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'nodekit'" in ran.stdout
    for name in ("nodekit_", "'trio'", "hypothesis", "aiohttp"):
        assert name not in ran.stdout
