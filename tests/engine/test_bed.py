"""The test bed itself, on the engine that it starts."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import docker
import docker.errors
import pytest

from engine.bed import Engine, NoEngine, open_engine
from engine.dockerd import Dockerd, EngineFailed, until
from engine.fixtures import unavailable
from engine.registry import LEASH


def test_threads_of_programs_in_the_image_can_end(engine: Engine) -> None:
    thread = "threading.Thread(target=ctypes.CDLL(None).pthread_exit, args=[None])"
    code = f"import ctypes, os, threading; t = {thread}; t.start(); t.join(1); os._exit(0)"
    engine.client.containers.run(engine.images.python, ["python3", "-c", code], remove=True)


def test_anything_a_test_broke_is_repaired(engine: Engine, dockerd: Dockerd) -> None:
    with ExitStack() as left_open:
        for drill in (dockerd.full_disk(), dockerd.without_socket(), dockerd.frozen()):
            left_open.enter_context(drill)
        broken = left_open.pop_all()
    dockerd.repair()
    assert engine.client.ping()
    assert dockerd.free_bytes > 1 << 20
    broken.close()


def test_on_a_strangers_engine_only_what_is_labelled_is_removed(engine: Engine) -> None:
    ours = engine.client.containers.create(engine.images.service)
    client = engine.client
    client.api.import_image_from_data(b"\0" * 1024, repository="elsewhere/empty", tag="1")
    theirs = client.containers.create("elsewhere/empty:1", "sh")
    Engine(engine.host, client).sweep()
    theirs.reload()
    with pytest.raises(docker.errors.NotFound):
        ours.reload()
    theirs.remove()
    client.images.remove("elsewhere/empty:1")


KILLED_USER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from engine.bed import Engine
from engine.dockerd import Dockerd
import docker
with Dockerd() as dockerd:
    engine = Engine(dockerd.host, docker.DockerClient(dockerd.host), dockerd)
    engine.client.containers.run(engine.images.service, detach=True)
    print(dockerd.folder, *dockerd.pids("dockerd", "containerd"), flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_of_an_engine_whose_user_was_killed(dockerd: Dockerd) -> None:
    """The engine runs in a network of its own, as each network has one engine."""
    command = ["unshare", "--net", sys.executable, "-c", KILLED_USER, str(Path(__file__).parent.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        folder, *pids = user.stdout.readline().split()
        assert len(pids) == 2
        assert containers_in(folder)
        user.kill()
    until("its folder goes, which is the last thing", lambda: not Path(folder).exists())
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not containers_in(folder)


def containers_in(folder: str) -> list[Path]:
    """Return the control groups of containers of the engine in this folder."""
    return list(Path("/sys/fs/cgroup").glob(f"**/nodekit-test-{Path(folder).name}/*/cgroup.procs"))


def test_second_engine_in_one_network_is_refused(dockerd: Dockerd) -> None:
    with pytest.raises(EngineFailed, match="another test run has its engine in this network"), Dockerd():
        pass


def test_what_is_on_a_leash_ends_when_nobody_holds_it() -> None:
    with subprocess.Popen([sys.executable, str(LEASH), "sleep", "600"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) != 0


def test_no_engine_is_a_failure_in_ci_and_a_skip_with_a_reason_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no reason to skip: none here"):
        unavailable("none here")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="none here"):
        unavailable("none here")


def test_without_root_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("engine.bed.DEFAULT_HOST", "unix:///nowhere")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NoEngine, match="start Docker or set DOCKER_HOST"), open_engine():
        pass


def test_engine_that_was_named_and_does_not_answer_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    with pytest.raises(NoEngine, match="DOCKER_HOST=unix:///nowhere does not answer"), open_engine():
        pass
