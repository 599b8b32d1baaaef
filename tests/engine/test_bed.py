"""The test bed itself, on the engine that it starts."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
import requests
from docker.models.containers import Container

from engine.bed import Engine, NoEngine, open_engine
from engine.dockerd import Dockerd, EngineFailed, until
from engine.fixtures import unavailable
from engine.ping import answers
from engine.registry import LEASH, Registry

ANSWER_402 = b'{"data": {"do": "answer", "status": 402, "body": "pay"}}'


@contextmanager
def running(engine: Engine, **options: Any) -> Iterator[Container]:
    container = engine.client.containers.run(
        engine.images.service, detach=True, ports={"3000/tcp": ("127.0.0.1", None)}, **options
    )
    try:
        yield container
    finally:
        container.remove(force=True)


def port(container: Container) -> int:
    container.reload()
    return int(container.ports["3000/tcp"][0]["HostPort"])


def call(container: Container, data: Any) -> Any:
    """Return the answer to one call, or None if there was none."""
    body = json.dumps({"source": 1, "destination": 1, "data": data, "requires_proof": False}).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port(container)}/service_output", body, 10) as answer:
            return json.load(answer)
    except (OSError, IndexError):
        return None


def test_service_adds_echoes_and_reports(engine: Engine) -> None:
    with running(engine, environment={"ADD": "3"}, user="1000", cap_drop=["ALL"]) as container:
        until("it answers", lambda: call(container, 4) == 7)
        assert call(container, {"a": [1]}) == {"a": [1]}
        report = call(container, {"do": "report", "write": ["/x", "/tmp/x"]})
    assert report["hostname"] == container.short_id
    assert (report["uid"], report["capabilities"], report["env"]["ADD"]) == (1000, 0, "3")
    assert report["write"] == {"/x": "PermissionError: [Errno 13] Permission denied: '/x'", "/tmp/x": "ok"}
    assert report["addresses"]["eth0"] == container.attrs["NetworkSettings"]["IPAddress"]


def test_service_does_what_it_is_told(engine: Engine) -> None:
    with running(engine, pids_limit=32, init=True, environment={"HEALTH": "503"}) as container:
        until("it answers", lambda: call(container, 1) == 1)
        assert call(container, {"do": "print", "lines": ["a", "b"]}) == ["a", "b"]
        assert call(container, {"do": "sleep", "seconds": 0, "then": 5}) == 5
        assert call(container, {"do": "connect", "host": "127.0.0.1", "port": 3000}) == "connected"
        assert 20 < call(container, {"do": "fork", "count": 100}) < 32
        assert call(container, {"do": "report"})["pids_limit"] == "32"
        with pytest.raises(urllib.error.HTTPError, match="402"):
            urllib.request.urlopen(f"http://127.0.0.1:{port(container)}/service_output", ANSWER_402).close()
        assert call(container, {"do": "die"}) is None
        assert container.wait()["StatusCode"] == 137
        assert container.logs().decode().split() == ["starting", "listening", "a", "b"]


def test_service_crashes_as_told_and_then_does_not(engine: Engine) -> None:
    with running(engine, environment={"CRASH": "9", "CRASH_TIMES": "1"}) as container:
        assert container.wait()["StatusCode"] == 9
        assert container.logs().decode().splitlines() == ["starting", "crashing as told, with 9"]
        container.start()
        until("it answers", lambda: call(container, 1) == 1)


def test_service_eats_until_it_is_killed(engine: Engine) -> None:
    with running(engine, mem_limit="64m", memswap_limit="64m") as container:
        until("it answers", lambda: call(container, 1) == 1)
        assert call(container, {"do": "eat"}) is None
        container.wait()
        container.reload()
        assert container.attrs["State"]["OOMKilled"]


def test_threads_of_programs_in_the_image_can_end(engine: Engine) -> None:
    thread = "threading.Thread(target=ctypes.CDLL(None).pthread_exit, args=[None])"
    code = f"import ctypes, os, threading; t = {thread}; t.start(); t.join(1); os._exit(0)"
    engine.client.containers.run(engine.images.python, ["python3", "-c", code], remove=True)


def test_killed_engine_comes_back_with_its_images_and_containers(engine: Engine, dockerd: Dockerd) -> None:
    with running(engine) as container:
        until("it answers", lambda: call(container, 1) == 1)
        dockerd.kill()
        assert not answers(engine.host)
        dockerd.start()
        assert engine.client.images.get(engine.images.service)
        container.reload()
        assert container.status == "exited"


def test_with_live_restore_programs_outlive_a_killed_engine(engine: Engine, dockerd: Dockerd) -> None:
    dockerd.restart(live_restore=True)
    with running(engine) as container:
        until("it answers", lambda: call(container, 1) == 1)
        started = container.attrs["State"]["StartedAt"]
        dockerd.restart()
        until("it answers", lambda: call(container, 1) == 1)
        assert container.attrs["State"]["StartedAt"] == started


def test_killed_program_is_noticed_by_the_engine(engine: Engine, dockerd: Dockerd) -> None:
    with running(engine) as container:
        until("it answers", lambda: call(container, 1) == 1)
        dockerd.kill_program(container.id)
        assert container.wait()["StatusCode"] == 137


def test_full_disk_takes_no_image_and_has_room_again(engine: Engine, dockerd: Dockerd, registry: Registry) -> None:
    large = engine.images.large(16)
    target = registry.push(engine.client, large, "large:1")
    free_bytes = dockerd.free_bytes
    engine.client.images.remove(large)
    with dockerd.full_disk(free_bytes=1 << 20):
        assert dockerd.free_bytes == 1 << 20
        assert "no space left on device" in pull(engine, target)
    assert dockerd.free_bytes >= free_bytes
    assert pull(engine, target) == ""


def pull(engine: Engine, target: str, **options: Any) -> str:
    """Pull an image; return the error, or nothing."""
    try:
        lines = list(engine.client.api.pull(target, stream=True, decode=True, **options))
    except docker.errors.APIError as error:
        return str(error)
    return "".join(line.get("error", "") for line in lines)


def test_frozen_engine_answers_again_when_it_thaws(engine: Engine, dockerd: Dockerd) -> None:
    impatient = docker.DockerClient(base_url=engine.host, timeout=1)
    with dockerd.frozen(), pytest.raises(requests.exceptions.ReadTimeout):
        impatient.ping()
    assert engine.client.ping()
    impatient.close()


def test_engine_without_its_socket_is_not_found(engine: Engine, dockerd: Dockerd) -> None:
    with dockerd.without_socket():
        assert not answers(engine.host)
    assert answers(engine.host)


def test_anything_a_test_broke_is_repaired(engine: Engine, dockerd: Dockerd) -> None:
    with ExitStack() as left_open:
        for drill in (dockerd.full_disk(), dockerd.without_socket(), dockerd.frozen()):
            left_open.enter_context(drill)
        broken = left_open.pop_all()
    dockerd.repair()
    assert engine.client.ping()
    assert dockerd.free_bytes > 1 << 20
    broken.close()


def test_private_registry_refuses_who_has_no_credentials(engine: Engine, private_registry: Registry) -> None:
    target = private_registry.push(engine.client, engine.images.service, "team/service:1")
    assert "no basic auth credentials" in pull(engine, target)
    assert private_registry.account is not None
    wrong = {"username": private_registry.account.username, "password": "wrong"}
    assert "authentication" in pull(engine, target, auth_config=wrong)
    assert pull(engine, target, auth_config=private_registry.account._asdict()) == ""


def test_registry_that_was_down_still_has_its_images(engine: Engine, registry: Registry) -> None:
    target = registry.push(engine.client, engine.images.service, "service:1")
    with registry.down():
        assert "connection refused" in pull(engine, target)
    assert pull(engine, target) == ""
    assert pull(engine, registry.digest(target, engine.client)) == ""


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
