"""The table `[packages]`: what is not on the list is not imported."""

from pathlib import Path

import pytest
from planted import LEAVES_A_MARK, STORE, imported, nodekit, plant

from nodekit import CompositionError, __version__, load_node

MARKED = LEAVES_A_MARK + STORE
SHELF = '[store]\nuse = "shelf"\n'
MEMORY = '[store]\nuse = "memory"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, MARKED, version="1.5")
    return tmp_path


def check(folder: Path, text: str) -> tuple[int, str]:
    (folder / "node.toml").write_text(text)
    done = nodekit(folder, "check", "node.toml")
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_without_the_table_whatever_is_installed_may_be_named(folder: Path) -> None:
    assert check(folder, SHELF) == (0, "")
    assert imported(folder) == {"nodekit_shelf"}


def test_what_is_not_listed_is_refused_before_it_is_imported_with_the_line_that_lists_it(folder: Path) -> None:
    code, text = check(folder, SHELF + '[packages]\nnodekit-shlf = "*"\n')
    assert code == 3
    assert text.startswith("node.toml: packages.nodekit-shelf: is not listed, and store 'shelf' is of it")
    assert 'add nodekit-shelf = "==1.5" under [packages]' in text
    assert "did you mean 'nodekit-shlf'?" in text
    assert imported(folder) == set()


def test_an_empty_table_allows_nodekit_alone(folder: Path) -> None:
    assert check(folder, SHELF + "[packages]\n")[0] == 3
    assert check(folder, MEMORY + "[packages]\n") == (0, "")
    assert imported(folder) == set()


@pytest.mark.parametrize("pin", ["*", ">=1.2,<2", "==1.5", "~=1.4"])
def test_a_version_that_fits_may_be_imported_however_the_name_is_written(folder: Path, pin: str) -> None:
    assert check(folder, SHELF + f'[packages]\nNodekit_Shelf = "{pin}"\n') == (0, "")


def test_a_version_that_does_not_fit_is_refused_before_it_is_imported(folder: Path) -> None:
    code, text = check(folder, SHELF + '[packages]\nnodekit-shelf = ">=2"\n')
    assert (code, imported(folder)) == (3, set())
    assert "packages.nodekit-shelf: expected >=2, and the installed version is 1.5" in text
    assert "pip install 'nodekit-shelf>=2'" in text


def test_a_version_before_its_release_fits_what_it_lies_in(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, version="2.0b1")
    assert check(tmp_path, SHELF + '[packages]\nnodekit-shelf = ">=1"\n') == (0, "")


@pytest.mark.parametrize("version", ["no-version", ""])
def test_what_has_no_version_fits_only_any(tmp_path: Path, version: str) -> None:
    metadata = "Metadata-Version: 2.1\nName: nodekit-shelf\n" + (f"Version: {version}\n" if version else "")
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, MARKED, metadata=metadata)
    code, text = check(tmp_path, SHELF + '[packages]\nnodekit-shelf = ">=1"\n')
    assert (code, imported(tmp_path)) == (3, set())
    assert "packages.nodekit-shelf: expected >=1" in text
    assert check(tmp_path, SHELF + '[packages]\nnodekit-shelf = "*"\n') == (0, "")


def test_the_list_says_who_is_meant_where_two_offer_a_name(folder: Path) -> None:
    plant(folder, "nodekit-other", {"stores": "shelf"}, MARKED)
    assert check(folder, SHELF + '[packages]\nnodekit-shelf = "*"\n') == (0, "")
    assert imported(folder) == {"nodekit_shelf"}


def test_nobody_takes_over_a_built_in_name_from_outside_the_list(folder: Path) -> None:
    plant(folder, "nodekit-evil", {"stores": "memory"}, MARKED)
    assert check(folder, MEMORY)[0] == 3
    assert check(folder, MEMORY + "[packages]\n") == (0, "")
    assert imported(folder) == set()


def test_a_package_that_is_used_twice_is_one_problem(folder: Path) -> None:
    plant(folder, "nodekit-both", {"stores": "left", "plugins": "right"}, MARKED)
    code, text = check(folder, '[packages]\n[store]\nuse = "left"\n[[plugins]]\nuse = "right"\n')
    assert code == 3
    assert len(text.splitlines()) == 2  # they name what is of it
    assert all("packages.nodekit-both" in line for line in text.splitlines())


def test_what_is_listed_need_not_be_installed_and_is_named_where_an_offer_is_missed(folder: Path) -> None:
    pins = '[packages]\nnodekit-more = ">=1"\n'
    assert check(folder, MEMORY + pins) == (0, "")
    code, text = check(folder, '[store]\nuse = "more"\n' + pins)
    assert code == 3
    assert "store.use: unknown store 'more'" in text
    assert "listed and not installed: nodekit-more" in text


@pytest.mark.parametrize(
    ("table", "where", "words"),
    [
        ("packages = 3\n", "packages", "expected a table"),
        ('[packages]\nnodekit-shelf = ">=>1"\n', "packages.nodekit-shelf", "expected versions such as"),
        ("[packages]\nnodekit-shelf = 1.5\n", "packages.nodekit-shelf", "got 1.5"),
        ('[packages]\nnodekit-shelf = ""\n', "packages.nodekit-shelf", '"*" for any'),
        ('[packages]\nnodekit-shelf = "*"\nnodekit_shelf = "*"\n', "packages.nodekit_shelf", "listed twice"),
        ('[packages]\nnodekit-compute = ">=1000"\n', "packages.nodekit-compute", __version__),
    ],
)
def test_what_is_wrong_with_the_table_is_a_problem_of_it(tmp_path: Path, table: str, where: str, words: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(table + MEMORY)
    with pytest.raises(CompositionError) as failed:
        load_node(file)
    (problem,) = failed.value.problems
    assert problem.where == where
    assert words in problem.text


def test_nodekit_itself_may_be_listed(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f'{MEMORY}[packages]\nnodekit-compute = ">={__version__}"\n')
    assert load_node(file).name


def test_serve_and_show_and_schema_honour_the_list_too(folder: Path) -> None:
    (folder / "node.toml").write_text(SHELF + "[packages]\n")
    for command in (["serve"], ["config", "show"]):
        done = nodekit(folder, *command, "node.toml")
        assert (done.returncode, "packages.nodekit-shelf: is not listed" in done.stderr) == (3, True), command
    done = nodekit(folder, "config", "schema", "node.toml")
    assert (done.returncode, done.stderr, '"shelf"' in done.stdout) == (0, "", False)
    assert imported(folder) == set()


def test_doctor_with_a_file_imports_neither_offers_nor_checks_from_outside_the_list(folder: Path) -> None:
    checks = LEAVES_A_MARK + "def offer():\n    return []\n"
    plant(folder, "nodekit-sky", {"doctor": "sky"}, checks)
    plant(folder, "nodekit-sea", {"doctor": "sea"}, checks)
    (folder / "node.toml").write_text(MEMORY + '[packages]\nnodekit-sea = "*"\nnodekit-land = "*"\n')
    done = nodekit(folder, "doctor", "node.toml")
    assert imported(folder) == {"nodekit_sea"}
    assert "lists packages that are not installed: nodekit-land" in done.stdout
    (folder / "node.toml").write_text("this is not TOML")
    (folder / "nodekit_sea.imported").unlink()
    assert nodekit(folder, "doctor", "node.toml").returncode == 1
    assert imported(folder) == set()
    nodekit(folder, "doctor")
    assert imported(folder) == {"nodekit_shelf", "nodekit_sky", "nodekit_sea"}


@pytest.mark.parametrize("versions", ['" "', '","', '["==1.5"]', '{ "==1.5" = 1 }'])
def test_what_only_looks_like_versions_allows_nothing(folder: Path, versions: str) -> None:
    code, text = check(folder, SHELF + f"[packages]\nnodekit-shelf = {versions}\n")
    assert code == 3
    assert "packages.nodekit-shelf: expected versions such as" in text
    assert imported(folder) == set()


def test_a_distribution_that_takes_the_name_of_another_neither_is_it_nor_hides_it(folder: Path) -> None:
    plant(folder, "nodekit-false", {"stores": "false"}, MARKED)
    metadata = folder / "nodekit_false-1.0.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: nodekit-compute\nVersion: 1.0\n")
    assert check(folder, MEMORY + "[packages]\n") == (0, "")
    code, text = check(folder, '[packages]\n[store]\nuse = "false"\n')
    assert (code, imported(folder)) == (3, set())
    assert "unknown store 'false'; known: memory, shelf, sqlite" in text
