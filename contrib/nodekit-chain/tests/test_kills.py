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

from nodekit_chain.work.records import State

HERE = Path(__file__).parent
LIMIT_SECONDS = 60.0
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
    running = subprocess.Popen(command)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


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
            time.sleep(0.05)
        assert first.returncode == -signal.SIGKILL
    with process(**given) as second:
        while not (received := consumer.received(id)):
            assert second.poll() is None
            assert time.monotonic() < deadline, "the result was not delivered"
            chain.mine()
            time.sleep(0.05)
        for _ in range(10):  # a second transaction would follow now
            chain.mine()
            time.sleep(0.05)
    assert len(received) == 1
    assert len(chain.transactions_of(address)) == 1
