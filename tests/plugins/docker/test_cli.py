"""`nodekit containers`, `nodekit logs` and the findings of `nodekit doctor` about engines, on a real engine."""

import json
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from components import until
from docker_runs import Bed, aside, node_file, replaced, result, submitted
from served import NODEKIT, nodekit

from nodekit_docker.cli.containers import HEADS
from nodekit_docker.sizes import size_in_bytes

pytestmark = pytest.mark.anyio


TOKEN = {"env": {"TOKEN": {"env": "NOT_SET_HERE"}}}


@pytest.fixture
def file(bed: Bed, tmp_path: Path) -> Path:
    """Write the node file of the node that `bed` runs; it refers to unset secrets."""
    return node_file(tmp_path, bed, {"id": "one", **TOKEN}, {"id": "two", **TOKEN})


def output(*arguments: str | Path) -> str:
    done = nodekit(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def listed(file: Path) -> dict[str, Any]:
    return {row["id"]: row for row in json.loads(output("containers", file, "--json"))}


async def test_containers_shows_each_as_the_engine_knows_it(bed: Bed, file: Path) -> None:
    async with bed.running(bed.container("one"), bed.container("two")):
        rows = await aside(lambda: listed(file))
        for id, row in rows.items():
            container = await aside(lambda id=id: bed.one(id))
            (binding,) = container.ports["3000/tcp"]
            assert row["state"] == "running"
            assert row["address"] == f"127.0.0.1:{binding['HostPort']}"
            assert row["image"] == bed.engine.images.service
            digests = [digest.partition("@")[2] for digest in container.image.attrs.get("RepoDigests") or ()]
            assert row["digest"] in (container.image.id, *digests)  # other tests may have pushed it
            assert row["restarts"] == 0
            assert row["memory_limit_bytes"] == size_in_bytes("128MiB")
            assert 1 << 20 < row["memory_bytes"] < row["memory_limit_bytes"]
            assert datetime.now(UTC) - datetime.fromisoformat(row["since"]) < timedelta(minutes=5)
        assert set(rows) == {"one", "two"}


async def test_containers_shows_what_is_paused_made_again_and_missing(bed: Bed, file: Path) -> None:
    async with bed.running(bed.container("one")) as (node, _):
        await replaced(bed)
        assert await result(node, 1) == 1
        await aside((await aside(bed.one)).pause)
        text = (await aside(lambda: output("containers", file))).splitlines()
        assert text[0].split() == list(HEADS)
        assert text[1].split()[:2] == ["one", "paused"]
        assert text[1].split()[5] == "1"
        assert text[2].split()[:2] == ["two", "missing"]


async def test_a_program_is_shown_by_how_many_of_its_steps_run(bed: Bed, tmp_path: Path) -> None:
    entry = {"id": "one", "mode": "once", "image": bed.engine.images.program, "stop_seconds": 5, **TOKEN}
    file = node_file(tmp_path, bed, entry)
    async with bed.running(bed.program(concurrency=2)) as (node, _):
        assert (await aside(lambda: listed(file)))["one"]["state"] == "once, 0 running"
        for _ in range(2):
            await submitted(node, {"do": "sleep", "seconds": 600})
        await until(lambda: [one.status for one in bed.made()] == ["running"] * 2)
        row = (await aside(lambda: listed(file)))["one"]
        assert row["state"] == "once, 2 running"
        assert row["digest"] == (await aside(lambda: bed.made()[0].image)).id
        done = await aside(lambda: nodekit("logs", file, "one"))
        assert (done.returncode, "'one' is a program, whose output is not kept" in done.stderr) == (1, True)
    file = node_file(tmp_path, bed, {**entry, "image": "nodekit-test/none:1"})
    assert (await aside(lambda: listed(file)))["one"]["state"] == "image missing"


async def test_logs_gives_what_a_container_has_printed(bed: Bed, file: Path) -> None:
    async with bed.running(bed.container("one")) as (node, _):
        await result(node, {"do": "print", "lines": ["first", "grüße"]})
        await result(node, {"do": "print", "lines": ["third"], "to": "stderr"})
        printed = (await aside(lambda: output("logs", file, "one"))).splitlines()
        assert printed[-3:] == ["first", "grüße", "third"]
        assert (await aside(lambda: output("logs", file, "one", "--tail", "1"))) == "third\n"


async def test_logs_follows_a_container_and_its_successor(bed: Bed, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with bed.running(bed.container("one")) as (node, _):
        with out.open("wb") as stdout:
            following = subprocess.Popen([*NODEKIT, "logs", str(file), "one", "-f"], stdout=stdout, stderr=stdout)
        try:
            await result(node, {"do": "print", "lines": ["of the first"]})
            await until(lambda: "of the first" in out.read_text())
            await replaced(bed)
            await result(node, {"do": "print", "lines": ["of the second"]})
            await until(lambda: "of the second" in out.read_text())
            following.send_signal(signal.SIGINT)
            assert await aside(lambda: following.wait(30)) != 0
        finally:
            following.kill()
            following.wait()
    assert "Traceback" not in out.read_text()


def test_what_is_wrong_is_said_in_a_line(bed: Bed, file: Path, tmp_path: Path) -> None:
    engineless, empty = tmp_path / "engineless.toml", tmp_path / "empty.toml"
    engineless.write_text(file.read_text().replace(bed.engine.host, f"unix://{tmp_path}/none.sock"))
    for arguments, code, words in (
        (("logs", file, "three"), 1, "no container 'three' in Docker; known: one, two"),
        (("logs", file, "one"), 1, "is the node running?"),
        (("containers", tmp_path / "none.toml"), 3, "cannot be read"),
        (("containers", engineless), 1, "there is no such socket"),
    ):
        done = nodekit(*arguments)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    empty.write_text("")
    assert nodekit("containers", empty).stdout == f"{empty} has no containers in Docker\n"


def test_doctor_tells_which_engine_there_is_and_how_it_was_found(bed: Bed) -> None:
    found = nodekit("doctor", DOCKER_HOST=bed.engine.host)
    version = bed.engine.client.version()["Version"]
    assert f"engine {version} " in found.stdout
    assert f"at {bed.engine.host}, found by: DOCKER_HOST" in found.stdout
    assert "memory and processes can be limited" in found.stdout
    assert "Traceback" not in found.stdout + found.stderr


def test_doctor_tells_that_an_engine_does_not_answer(tmp_path: Path) -> None:
    found = nodekit("doctor", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    (line,) = [line for line in found.stdout.splitlines() if "docker:" in line]
    assert line.startswith("warning")
    assert "there is no such socket" in line
    assert "DOCKER_HOST" in line
