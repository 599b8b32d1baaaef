"""The checks of `nodekit doctor` for Docker: an engine that a node file needs must be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from http_api import free_port

from nodekit import Configured, ExaminedFile, Finding, NodeFile
from nodekit_docker import DockerConfig, DockerContainer
from nodekit_docker.doctor import findings


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")


def found(folder: Path, *hosts: str | None) -> list[Finding]:
    containers = (DockerContainer(id="a", image="x:1"),)
    components = [
        Configured("runner", "docker", f"runners[{number}]", DockerConfig(host=host, containers=containers))
        for number, host in enumerate(hosts)
    ]
    return list(findings(ExaminedFile(NodeFile(folder / "node.toml", "n"), tuple(components))))


def test_a_file_without_docker_needs_no_engine(tmp_path: Path) -> None:
    assert [one.level for one in found(tmp_path)] == ["warning"]
    assert [one.level for one in findings()] == ["warning"]


def test_an_engine_that_a_file_needs_and_that_does_not_answer_is_an_error_for_its_runners(tmp_path: Path) -> None:
    other = f"tcp://127.0.0.1:{free_port()}"
    first, second = found(tmp_path, None, other, None)
    assert (first.level, first.subject) == ("error", "runners[0], runners[2]")
    assert (second.level, second.subject) == ("error", "runners[1]")
    assert "the node file's `host`" in second.text


@pytest.mark.parametrize("content", ["[]", '{"auths": 3}'])
def test_a_configuration_of_dockers_command_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (one,) = found(tmp_path, None)
    assert one.level == "error"
    assert f"the file {tmp_path}/config.json of Docker's command cannot be used" in one.text
    assert "does not answer" not in one.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user whom nobody knows")
def test_a_user_without_a_home_has_no_engine_there(tmp_path: Path) -> None:
    script = """
import os
import docker.context, nodekit_docker.engine.find as find
os.setuid(54321)
find.DEFAULT_SOCKET = "/no/such/socket"
try:
    find.find_engine()
except find.EngineGone as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "DOCKER_HOST")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "no Docker engine was found"), done.stderr
