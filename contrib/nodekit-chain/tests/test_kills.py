"""A node that is killed at each state of a record, and starts again: one transaction, and none is lost."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from delegation import Owner
from local_chain import Contracts, LocalChain

from nodekit.testing import SharedServer
from nodekit_chain.protocol.address import ZERO_ADDRESS
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


def ready(running: "subprocess.Popen[bytes]") -> str:
    """Wait until a process serves; return its URL, if it has one. Fail if it ends before."""
    assert running.stdout is not None
    said, _, url = running.stdout.readline().decode().strip().partition(" ")
    assert said == "ready"
    return url


def serving(contracts: Contracts, store: object, **more: str) -> dict[str, str]:
    """Return what processes are given."""
    addresses = {"url": contracts.chain.url, "registry": contracts.registry.address}
    return {**addresses, "store": str(store), **more}


def mine_until(chain: LocalChain, done: Callable[[], Any], *alive: "subprocess.Popen[bytes]") -> None:
    """Mine blocks until something is so."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not done():
        assert all(one.poll() is None for one in alive)
        assert time.monotonic() < deadline, "what was expected did not come"
        mine_on(chain, 1)


def mine_on(chain: LocalChain, blocks: int) -> None:
    """Mine blocks with which a second transaction would come."""
    for _ in range(blocks):
        chain.mine()
        time.sleep(PAUSE_SECONDS)


def mine_until_killed(chain: LocalChain, dying: "subprocess.Popen[bytes]") -> None:
    mine_until(chain, lambda: dying.poll() is not None)
    assert dying.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("state", "moment"), MOMENTS)
def test_a_result_is_delivered_once_by_a_node_that_is_killed(
    contracts: Contracts, chain: LocalChain, tmp_path: Path, state: str, moment: str
) -> None:
    key, address = chain.new_key()
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"])
    given = serving(contracts, tmp_path / "jobs.sqlite", key=key)
    with process(**given, state=state, moment=moment) as first:
        mine_until_killed(chain, first)
    with process(**given) as second:
        mine_until(chain, lambda: consumer.received(id), second)
        mine_on(chain, 10)
    assert len(consumer.received(id)) == 1
    assert len(chain.transactions_of(address)) == 1


def test_a_proof_is_delivered_once_by_a_node_that_is_killed(
    contracts: Contracts, chain: LocalChain, tmp_path: Path
) -> None:
    """The node dies with the transaction that sets its allowance, and while the proof waits for its verdict."""
    key, address = chain.new_key()
    consumer, verifier = contracts.consumer(b"\x01"), contracts.verifier()
    verifier.send("setToken", ZERO_ADDRESS, True, 100)
    paying = contracts.wallet(chain.owner, 1000)
    paying.send("approve", consumer.address, ZERO_ADDRESS, 1000)
    own = contracts.wallet(address, 1000)
    id = consumer.subscribe(["prove"], amount=1000, wallet=paying.address, verifier=verifier.address)
    given = serving(contracts, tmp_path / "jobs.sqlite", key=key, wallet=own.address)
    for state, moment in [
        ("approval", "before"),
        ("approval", "at"),
        ("approval", "sent"),
        ("confirmed", "after"),
    ]:
        with process(**given, state=state, moment=moment) as dying:
            mine_until_killed(chain, dying)
    assert len(consumer.received(id)) == 1
    verifier.send("finalize", id, 1, address, True)
    assert chain.balance(own.address) == 1800  # less a tenth for the protocol, and what the verifier takes
    with process(**given, state="done", moment="after") as last:
        mine_until_killed(chain, last)
    assert len(consumer.received(id)) == 1
    assert [one["to"] for one in chain.transactions_of(address)] == [own.address, contracts.coordinator.address]


def asked(url: str, body: dict[str, Any]) -> int:
    """Ask a node for a delegated subscription. Return the status of its reply; 0: it has died without one."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=LIMIT_SECONDS)
    try:
        connection.request("POST", "/api/jobs", json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().status
    except ConnectionError:
        return 0
    finally:
        connection.close()


def test_a_request_is_served_once_although_its_node_was_killed_before_it_replied(
    contracts: Contracts, chain: LocalChain, tmp_path: Path
) -> None:
    key, address = chain.new_key()
    owner = Owner(contracts)
    body = owner.signed(owner.subscription(["echo"]))
    given = serving(contracts, tmp_path / "jobs.sqlite", key=key, http="yes")
    with process(**given, state="seen", moment="after") as first:
        assert asked(ready(first), body) == 0
        assert first.wait() == -signal.SIGKILL
    with process(**given) as second:
        url = ready(second)
        mine_until(chain, owner.consumer.received, second)  # although nobody has asked again
        assert asked(url, body) == 200
        mine_on(chain, 5)
        assert asked(url, body) == 200
    assert len(owner.consumer.received()) == 1
    assert len(chain.transactions_of(address)) == 1


@contextmanager
def two_processes(
    given: dict[str, str], state: str, moment: str
) -> Iterator[tuple["subprocess.Popen[bytes]", "subprocess.Popen[bytes]"]]:
    """Start a process that watches the chain and dies at that moment, and one that takes over then."""
    with process(**given, name="first", leads="yes", state=state, moment=moment) as first:
        ready(first)
        with process(**given, name="second") as second:
            ready(second)
            yield first, second


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
        given = serving(contracts, f"{host}:{port}", key=key)
        with two_processes(given, state, moment) as (first, second):
            id = consumer.subscribe(["echo"])
            mine_until_killed(chain, first)
            mine_until(chain, lambda: consumer.received(id), second)
            mine_on(chain, 15)  # a second transaction would come from the node that takes over
    assert len(consumer.received(id)) == 1
    assert len(chain.transactions_of(address)) == 1


def test_another_node_takes_over_on_a_real_engine(contracts: Contracts, chain: LocalChain, redis_url: str) -> None:
    """The node that watches dies with the first of many transactions, while others are computed and signed."""
    key, address = chain.new_key()
    consumer = contracts.consumer(b"\x01")
    given = serving(contracts, redis_url, key=key)
    with two_processes(given, "mined", "before") as (first, second):
        consumer.subscribe_times(20, ["echo"])
        mine_until_killed(chain, first)
        mine_until(chain, lambda: len(consumer.received()) >= 20, second)
        mine_on(chain, 5)
    assert sorted(one["id"] for one in consumer.received()) == list(range(1, 21))
    assert len(chain.transactions_of(address)) == 20
