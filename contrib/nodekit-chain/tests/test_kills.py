"""A node that is killed at each state of a record, and starts again: one transaction, and none is lost."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from local_chain import Contracts, LocalChain

from nodekit.testing import SharedServer
from nodekit_chain.work.records import State

HERE = Path(__file__).parent
LIMIT_SECONDS = 90.0
PAUSE_SECONDS = 0.3
MOMENTS = [
    ("", "at"),
    *[
        (str(state), moment)
        for state in (State.SEEN, State.RUNNING, State.OUTPUT, State.SIGNED, State.MINED, State.DONE)
        for moment in ("before", "after")
    ],
]


@contextmanager
def process(**given: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, str(HERE / "serving_process.py"), json.dumps(given)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


@pytest.mark.parametrize(("state", "moment"), MOMENTS)
def test_a_result_is_delivered_once_by_a_node_that_is_killed(
    contracts: Contracts, chain: LocalChain, tmp_path: Path, state: str, moment: str
) -> None:
    key, address = chain.new_key()
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"])
    given = {
        "url": chain.url,
        "coordinator": contracts.coordinator.address,
        "reader": contracts.reader.address,
        "key": key,
        "store": str(tmp_path / "jobs.sqlite"),
    }
    with process(**given, state=state, moment=moment) as first:
        deadline = time.monotonic() + LIMIT_SECONDS
        while first.poll() is None:
            assert time.monotonic() < deadline, "the process did not come to where it dies"
            chain.mine()
            time.sleep(PAUSE_SECONDS)
        assert first.returncode == -signal.SIGKILL
    with process(**given) as second:
        while not (received := consumer.received(id)):
            assert second.poll() is None
            assert time.monotonic() < deadline, "the result was not delivered"
            chain.mine()
            time.sleep(PAUSE_SECONDS)
        for _ in range(10):  # a second transaction would follow now
            chain.mine()
            time.sleep(PAUSE_SECONDS)
    assert len(received) == 1
    assert len(chain.transactions_of(address)) == 1


def is_ready(running: "subprocess.Popen[bytes]") -> bool:
    """Wait until a process serves; return False if it ends before."""
    assert running.stdout is not None
    return running.stdout.readline() == b"ready\n"


@pytest.mark.parametrize(
    ("state", "moment"), [one for one in MOMENTS if one[1] != "before"] + [(str(State.SIGNED), "before")]
)
def test_another_node_of_a_cluster_takes_over_from_the_one_that_watches(
    contracts: Contracts, chain: LocalChain, tmp_path: Path, state: str, moment: str
) -> None:
    key, address = chain.new_key()
    consumer = contracts.consumer(b"\x01")
    with SharedServer(tmp_path / "jobs.sqlite") as server:
        host, port = server.address
        given = {
            "url": chain.url,
            "coordinator": contracts.coordinator.address,
            "reader": contracts.reader.address,
            "key": key,
            "store": f"{host}:{port}",
        }
        with (
            process(**given, name="first", leads="yes", state=state, moment=moment) as first,
            process_after(first, **given, name="second") as second,
        ):
            id = consumer.subscribe(["echo"])
            deadline = time.monotonic() + LIMIT_SECONDS
            while first.poll() is None or not consumer.received(id):
                assert second.poll() is None
                assert time.monotonic() < deadline, "the result was not delivered"
                chain.mine()
                time.sleep(PAUSE_SECONDS)
            assert first.returncode == -signal.SIGKILL
            for _ in range(15):  # a second transaction would follow, from the node that takes over
                chain.mine()
                time.sleep(PAUSE_SECONDS)
    assert len(consumer.received(id)) == 1
    assert len(chain.transactions_of(address)) == 1


@contextmanager
def process_after(first: "subprocess.Popen[bytes]", **given: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process once another one serves."""
    assert is_ready(first)
    with process(**given) as running:
        assert is_ready(running)
        yield running
