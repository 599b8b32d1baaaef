"""Volumes: pinned at the first start, apart from each other, and warned of if they are dangerous; without an engine."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodekit import CompositionError
from nodekit_docker import DockerContainer, DockerRunner
from nodekit_docker.containers.volumes import NODE_FILE, SOCKET, STATE, Volumes, dangers
from nodekit_docker.engine.errors import NotUp


def container(*volumes: str, id: str = "one") -> DockerContainer:
    return DockerContainer(id=id, image="one", volumes=volumes)


# -- pinned ---------------------------------------------------------------------------------------


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    engine: Any = SimpleNamespace()
    return Volumes(engine, tmp_path, local=True)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Return two folders."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize("source", ["./link", "{folder}/link", "{folder}/./link", "./link/sub"])
def test_a_link_is_resolved_once_and_may_not_lead_elsewhere_later(
    volumes: Volumes, tmp_path: Path, two: tuple[Path, Path], source: str
) -> None:
    for folder in two:
        (folder / "sub").mkdir()
    (tmp_path / "link").symlink_to("a")
    text = f"{source.format(folder=tmp_path)}:/data"
    assert Path(volumes.pinned(text).source).is_relative_to(two[0])
    assert volumes.pinned(text) == volumes.pinned(text)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("b")
    with pytest.raises(NotUp, match="is not what it was at the first start"):
        volumes.pinned(text)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("a")
    assert Path(volumes.pinned(text).source).is_relative_to(two[0])


def test_a_folder_may_not_become_another_one_or_a_link(
    volumes: Volumes, tmp_path: Path, two: tuple[Path, Path]
) -> None:
    assert volumes.pinned("./a:/data:ro").source == str(two[0])
    two[0].rename(tmp_path / "away")
    for make in (two[0].mkdir, lambda: two[0].symlink_to("b"), lambda: two[0].symlink_to("/etc")):
        make()
        with pytest.raises(NotUp):
            volumes.pinned("./a:/data:ro")
        two[0].unlink() if two[0].is_symlink() else two[0].rmdir()
    (tmp_path / "away").rename(two[0])
    volumes.pinned("./a:/data:ro")


def test_a_file_may_be_replaced_by_a_file_of_its_folder_and_by_nothing_else(
    volumes: Volumes, tmp_path: Path, two: tuple[Path, Path]
) -> None:
    file = two[0] / "config"
    file.write_text("1")
    text = "./a/config:/config:ro"
    assert volumes.pinned(text).source == str(file)
    (tmp_path / "new").write_text("2")
    (tmp_path / "new").replace(file)  # as editors do
    assert volumes.pinned(text).source == str(file)
    file.unlink()
    file.symlink_to("/etc/passwd")
    with pytest.raises(NotUp):
        volumes.pinned(text)
    file.unlink()
    file.mkdir()
    with pytest.raises(NotUp):
        volumes.pinned(text)


def test_a_path_that_is_missing_is_pinned_once_it_is_there(volumes: Volumes, tmp_path: Path) -> None:
    assert volumes.pinned("./later:/data").source == str(tmp_path / "later")
    (tmp_path / "later").mkdir()
    volumes.pinned("./later:/data")
    (tmp_path / "later").rename(tmp_path / "away")
    (tmp_path / "later").symlink_to("/etc")
    with pytest.raises(NotUp):
        volumes.pinned("./later:/data")


def test_a_volume_with_a_name_is_the_engines(volumes: Volumes) -> None:
    assert volumes.pinned("models:/models").source == "models"


# -- apart ----------------------------------------------------------------------------------------


def problems(folder: Path, *containers: DockerContainer) -> list[str]:
    try:
        DockerRunner(*containers, folder=folder)
    except CompositionError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("./data", "./data/sub"),
        ("./data", "./data/sub/deeper:ro"),
        ("{folder}/data", "./data/../data/sub"),
        ("./link", "./data/sub"),
        ("./data", "./link/sub"),
        ("/", "./data"),
    ],
)
def test_no_volume_lies_in_another_one_that_can_be_written(tmp_path: Path, outer: str, inner: str) -> None:
    (tmp_path / "data/sub/deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to("data")
    source, _, mode = inner.partition(":")
    first = f"{outer.format(folder=tmp_path)}:/outer"
    second = f"{source}:/inner" + (f":{mode}" if mode else "")
    (problem,) = problems(tmp_path, container(first), container(second, id="two"))
    assert problem.startswith(f"containers[1].volumes[0]: it lies in {first!r}, which can be written")
    (problem,) = problems(tmp_path, container(second, first))
    assert problem.startswith("containers[0].volumes[0]: ")


def test_volumes_beside_each_other_shared_or_in_one_that_is_read_only_are_fine(tmp_path: Path) -> None:
    (tmp_path / "data/sub").mkdir(parents=True)
    both = container("./data:/data", "models:/models", "./database:/database"), container("./data:/data", id="two")
    assert problems(tmp_path, *both) == []
    assert problems(tmp_path, container("./data:/data:ro"), container("./data/sub:/sub", id="two")) == []


# -- dangers --------------------------------------------------------------------------------------


def danger(folder: Path, source: str, mode: str = "") -> str:
    """Return what the only warning says; empty if there is none."""
    private = {SOCKET: folder / "run/docker.sock", STATE: folder / "node/.nodekit", NODE_FILE: folder / "node"}
    found = list(dangers([container(f"{source}:/inside{mode}")], folder / "node", private))
    return found[0].partition("/inside")[2].partition(" holds ")[2].partition(":")[0] if found else ""


@pytest.mark.parametrize("mode", ["", ":ro"])
@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("/", "the whole disk"),
        ("/etc", "/etc"),
        ("/root", "/root"),
        ("/var/run", "/run"),
        ("/var/lib", "a folder of the system, /var/lib/docker"),
        ("../run/docker.sock", SOCKET),
        ("../run", SOCKET),
        ("../link", SOCKET),
        ("..", SOCKET),
        (".", STATE),
        ("./.nodekit", STATE),
        ("./.nodekit/docker-a.key", STATE),
    ],
)
def test_a_dangerous_volume_is_warned_of(tmp_path: Path, source: str, what: str, mode: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/docker.sock").touch()
    (tmp_path / "link").symlink_to("run/docker.sock")
    (tmp_path / "node/.nodekit").mkdir(parents=True)
    assert danger(tmp_path, source, mode) == what


@pytest.mark.parametrize("source", ["./data", "../other", "/srv/models", "/var/lib/node/data", "models"])
def test_an_ordinary_volume_is_not_warned_of(tmp_path: Path, source: str) -> None:
    assert danger(tmp_path, source) == ""


def test_parts_of_the_system_are_warned_of_if_they_can_be_written(tmp_path: Path) -> None:
    part = next(f"/etc/{name}" for name in sorted(os.listdir("/etc")) if not os.path.islink(f"/etc/{name}"))
    assert danger(tmp_path, part) == "a folder of the system, /etc"
    assert danger(tmp_path, part, ":ro") == ""
