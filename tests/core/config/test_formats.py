"""Node files of other formats: the one package that knows a format reads it; problems give their place in the file."""

from pathlib import Path

import pytest
from planted import install, nodekit

from nodekit import CompositionError, NodeTables, Problem, Secret, load_node, read_node_file
from nodekit.config.formats import read_tables

LINES = """
from pathlib import Path
from nodekit import CompositionError, Format, NodeTables, Problem

def read(path):
    tables = {"store": {"use": "memory"}, "transports": [{"use": "asgi", "bind": "127.0.0.1:0"}]}
    origins = {"store": "line 1", "store.use": "line 1, first word", "transports[0].bind": "line 2"}
    for line in path.read_text().splitlines():
        match line.split():
            case ["store", name]:
                tables["store"] = {"use": name}
            case ["bind", bind]:
                tables["transports"][0]["bind"] = bind
            case ["fail"]:
                raise CompositionError(Problem("line 3", "says fail"))
    return NodeTables(tables, ("bind is a guess", "so is the store"), origins)

provider = Format(read, variable="LINES_FILE")
"""


REFUSES = """
from nodekit import Format, NodekitError

def read(path):
    raise NodekitError("no licence")

provider = Format(read)
"""


def written(folder: Path, text: str, name: str = "node.lines") -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    install(tmp_path, "nodekit-lines", LINES, formats="lines")
    return tmp_path


def test_check_reads_it_and_tells_each_notice_once(folder: Path) -> None:
    file = written(folder, "store memory\n")
    done = nodekit(folder, "check", file)
    assert (done.returncode, done.stdout) == (0, f"{file}: ok (0 containers)\n")
    notes = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert notes == [f"{file}: note: bind is a guess", f"{file}: note: so is the store"]


def test_a_problem_of_what_it_says_is_told_where_it_stands(folder: Path) -> None:
    done = nodekit(folder, "check", written(folder, "store sqlit\nbind nonsense\n"))
    assert done.returncode == 3
    assert "line 1, first word: unknown store 'sqlit'" in done.stderr
    assert "line 2: expected" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_problem_that_the_package_finds_is_told_as_it_says(folder: Path) -> None:
    file = written(folder, "fail\n")
    for command in ("check", "serve"):
        done = nodekit(folder, command, file)
        assert (done.returncode, done.stderr) == (3, f"{file}: line 3: says fail\n")


def test_a_wrong_bind_of_the_command_line_is_not_taken_for_the_file_s(folder: Path) -> None:
    done = nodekit(folder, "serve", written(folder, "bind 127.0.0.1:0\n"), "--bind", "nonsense")
    assert done.returncode == 2
    assert "--bind" in done.stderr


def test_doctor_reads_it_too(folder: Path) -> None:
    done = nodekit(folder, "doctor", written(folder, ""))
    assert "bind is a guess" in done.stdout
    assert "composes" in done.stdout


def test_the_suffix_may_be_in_capitals_and_a_file_without_one_is_toml(folder: Path) -> None:
    assert nodekit(folder, "check", written(folder, "", "NODE.LINES")).returncode == 0
    assert nodekit(folder, "check", written(folder, '[store]\nuse = "memory"\n', "node")).returncode == 0


def test_an_unknown_format_is_3_and_names_the_known_ones(folder: Path) -> None:
    file = written(folder, "", "node.yaml")
    done = nodekit(folder, "check", file)
    assert done.returncode == 3
    assert f"{file}: no installed package reads the format 'yaml'; known: json, lines, toml" in done.stderr
    assert "did you mean 'toml'?" in nodekit(folder, "check", written(folder, "", "node.tom")).stderr


def test_two_packages_of_one_format_clash_and_none_of_them_is_imported(folder: Path) -> None:
    install(folder, "nodekit-others", "raise SystemExit('imported')", formats="lines")
    done = nodekit(folder, "check", written(folder, ""))
    assert done.returncode == 3
    assert "format 'lines' is provided by several distributions (nodekit-lines 1.0, nodekit-others 1.0)" in done.stderr
    assert nodekit(folder, "check", written(folder, '[store]\nuse = "memory"\n', "node.toml")).returncode == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_of_that_name", "cannot be imported: ModuleNotFoundError"),
        ("provider = print", "nodekit_broken:provider is not a Format"),
        (REFUSES, "no licence"),
        (REFUSES.replace("NodekitError(", "KeyError("), "the package that reads the format 'broken' failed: KeyError"),
    ],
)
def test_a_package_that_is_broken_is_told_with_its_name(tmp_path: Path, code: str, words: str) -> None:
    install(tmp_path, "nodekit-broken", code, formats="broken")
    done = nodekit(tmp_path, "check", written(tmp_path, "", "node.broken"))
    assert done.returncode == 3
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_3(folder: Path) -> None:
    done = nodekit(folder, "check", folder / "none.lines")
    assert (done.returncode, "cannot be read: No such file or directory" in done.stderr) == (3, True)


# -- the environment ------------------------------------------------------------------------------


def test_serve_without_a_file_takes_the_one_that_a_variable_of_a_format_names(folder: Path) -> None:
    file = written(folder, "fail\n")
    done = nodekit(folder, "serve", LINES_FILE=str(file))
    assert (done.returncode, done.stderr) == (3, f"{file}: line 3: says fail\n")


def test_a_file_that_is_given_goes_before_the_variable(folder: Path) -> None:
    file = written(folder, "store nothing\n", "other.lines")
    done = nodekit(folder, "serve", file, LINES_FILE=str(written(folder, "fail\n")))
    assert "unknown store 'nothing'" in done.stderr


@pytest.mark.parametrize("value", [None, ""])
def test_without_either_it_is_a_mistake_of_the_command_line(folder: Path, value: str | None) -> None:
    done = nodekit(folder, "serve", **({} if value is None else {"LINES_FILE": value}))
    assert done.returncode == 2
    assert "no FILE is given" in done.stderr


def test_a_broken_package_does_not_hide_the_variable_of_another(folder: Path) -> None:
    install(folder, "nodekit-broken", "import nothing_of_that_name", formats="broken")
    done = nodekit(folder, "serve", LINES_FILE=str(written(folder, "fail\n")))
    assert "says fail" in done.stderr
    found = nodekit(folder, "doctor").stdout
    assert "formats broken, json, lines, toml" in found
    assert "format 'broken': of nodekit-broken 1.0 cannot be imported: ModuleNotFoundError" in found


# -- from Python ----------------------------------------------------------------------------------


def test_a_problem_is_told_by_the_longest_path_that_it_lies_below() -> None:
    file = NodeTables({}, origins={"a": "x", "a.b[1]": "y", "c[0]": "z"})
    problems = [Problem(where, "wrong") for where in ("a.b", "a.b[1].c", "a.b[10]", "ab", "c[0]", "c", "")]
    renamed = file.in_the_file(CompositionError(problems))
    assert [problem.where for problem in renamed.problems] == ["x.b", "y.c", "x.b[10]", "ab", "z", "c", ""]
    assert [problem.text for problem in renamed.problems] == ["wrong"] * 7


def test_the_place_of_a_container_is_that_in_the_file() -> None:
    runners = [{"use": "remote", "containers": [{"id": "a"}]}, {"containers": 5}, 7, {"containers": ["x", {"id": "b"}]}]
    tables = {"runners": runners}
    file = NodeTables(tables, origins={"runners[3].containers[1]": "containers[0]"})
    assert file.place_of_container("a") == "runners[0].containers[0]"
    assert file.place_of_container("b") == "containers[0]"
    assert file.place_of_container("c") == NodeTables({"runners": "none"}).place_of_container("a") == ""


def test_toml_has_neither_notices_nor_other_places(tmp_path: Path) -> None:
    file = written(tmp_path, '[store]\nuse = "memory"\n', "node.toml")
    read = read_tables(file)
    assert (read.tables, read.notices, read.origins) == ({"store": {"use": "memory"}}, (), {})
    assert read_node_file(file) == {"store": {"use": "memory"}}
    assert load_node(file).containers == {}


def test_a_secret_of_a_file_that_is_no_text_is_taken_as_it_is(tmp_path: Path) -> None:
    assert Secret.resolve(Secret("s3cret"), tmp_path).reveal() == "s3cret"
