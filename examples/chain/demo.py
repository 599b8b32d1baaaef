"""A contract asks a node for something, and the answer lands on the chain: once, every few seconds, and by a client.

It runs on a development chain of its own, with the contracts and tools of the tests in contrib/nodekit-chain.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "contrib" / "nodekit-chain" / "tests"))

import click  # noqa: E402
from chain_programs import NoChain  # noqa: E402
from eth_abi.abi import decode  # noqa: E402
from local_chain import CHAIN_ID, ConsumerContract, Contracts, LocalChain  # noqa: E402

from nodekit_chain.account.key import AccountKey  # noqa: E402
from nodekit_chain.protocol.delegated import DelegatedRequest, Domain  # noqa: E402
from nodekit_chain.protocol.subscription import Subscription, containers_hash  # noqa: E402

SECONDS = 60.0
PIPELINE = ["measure", "shout"]

T = TypeVar("T")


class DemoFailed(Exception):
    """The demo cannot go on. The message says why."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            chain = stack.enter_context(LocalChain("--block-time", "1"))
            contracts = Contracts(chain)
            tell(f"a development chain runs at {chain.url}; the registry is {contracts.registry.address}")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nodekit-chain-")))
            show(contracts, Node(stack, contracts, folder))
    except (DemoFailed, NoChain, OSError, HTTPException, subprocess.CalledProcessError) as error:
        sys.exit(f"demo-chain: {error or type(error).__name__}")
    tell(f"everything has stopped, after {time.monotonic() - began:.0f} s")


def show(contracts: Contracts, node: "Node") -> None:
    """Ask in three ways, and print the answers from the chain."""
    consumer = contracts.consumer(b"hello from a contract")
    click.echo(f"\nThe contract {consumer.address} asks for {' → '.join(PIPELINE)}")
    print_answers(consumer, consumer.subscribe(PIPELINE), 1)
    click.echo("\nIt asks for the same every 4 seconds, 3 times")
    print_answers(consumer, consumer.subscribe(PIPELINE, period=4, frequency=3), 3)
    click.echo("\nIts owner signs a subscription, and a client sends it to the node with an input of its own")
    id = delegated(contracts, consumer, node)
    print_answers(consumer, id, 1)
    shown = until(lambda: done_of(node.said("show", str(id))), "the confirmation of the last answer")
    click.echo(f"\nnodekit chain status\n{node.said('status')}\nnodekit chain show {id}\n{shown}")


def done_of(shown: str) -> str | None:
    """Return what a command has shown of a subscription once its delivery has enough confirmations."""
    return shown if " done" in shown else None


def print_answers(consumer: ConsumerContract, id: int, number: int) -> None:
    """Wait until the contract has received so many answers, and print them as they come."""
    for count in range(number):

        def arrived(count: int = count) -> Any:
            return next(iter(consumer.received(id)[count:]), None)

        answer = until(arrived, f"answer {count + 1} to subscription {id}")
        (text,) = decode(["string"], answer["output"])
        click.echo(f"  subscription {id}, interval {answer['interval']}: {click.style(text, fg='green')}")


def delegated(contracts: Contracts, consumer: ConsumerContract, node: "Node") -> int:
    """Sign a subscription for the consumer, and send it to the node. Return the id that the chain gives it."""
    secret, address = contracts.chain.new_key()
    consumer.send("setSigner", address)
    now = contracts.chain.timestamp
    subscription = Subscription(consumer.address, now, 0, 1, 1, containers_hash(PIPELINE))
    request = DelegatedRequest(1, now + 600, subscription)
    signature = AccountKey.parse(secret).sign(request.digest(Domain(CHAIN_ID, contracts.coordinator.address)))
    fields: dict[str, Any] = {name: getattr(subscription, name) for name in subscription.__struct_fields__}
    body = {
        "signature": {
            "nonce": request.nonce,
            "expiry": request.expiry,
            "v": 27 + signature.parity,
            "r": signature.r,
            "s": signature.s,
        },
        "subscription": {**fields, "containers": f"0x{subscription.containers.hex()}"},
        "data": {"text": "hello from a client"},
    }
    next_id = int(contracts.coordinator.call("id"))
    status, answer = node.ask("POST", "/api/jobs", json.dumps(body))
    if status != 200:
        raise DemoFailed(f"the node refuses it with status {status}: {answer}")
    click.echo("  POST /api/jobs: 200 {}")
    until(lambda: int(contracts.coordinator.call("id")) > next_id, "the subscription on the chain")
    return next_id


def tell(text: str) -> None:
    click.echo(f"{click.style('✓', fg='green')} {text}")


def until(done: Callable[[], T | None], what: str) -> T:
    """Ask again and again until there is something to return."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := done():
            return found
        time.sleep(0.1)
    raise DemoFailed(f"{what} did not come within {SECONDS:g} s")


class Node:
    """A node of the example's file, as a process that ends with the demo."""

    def __init__(self, stack: ExitStack, contracts: Contracts, folder: Path) -> None:
        self._log = folder / "node.log"
        secret, address = contracts.chain.new_key()
        self._port = free_port()
        self._env = {
            **os.environ,
            "RPC_URL": contracts.chain.url,
            "REGISTRY": contracts.registry.address,
            "CHAIN_PRIVATE_KEY": secret,
            "PORT": str(self._port),
            "FOLDER": str(folder),
            "NODEKIT_URL": f"http://127.0.0.1:{self._port}",
        }
        command = [sys.executable, "-m", "nodekit.cli", "serve", str(HERE / "node.toml"), "--log-level", "warning"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command; Ctrl-C is for the demo
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        stack.callback(self._end)
        until(self._serves, "the node")
        tell(f"a node listens at http://127.0.0.1:{self._port}; its account is {address}")

    def _serves(self) -> bool:
        if self._process.poll() is not None:
            raise DemoFailed(f"the node has ended:\n{self._log.read_text(errors='replace')[-2000:]}")
        with suppress(OSError, HTTPException):
            status, answer = self.ask("GET", "/-/chain/")
            return status == 200 and bool(answer["served"])
        return False

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, method: str, path: str, body: str | None = None) -> Any:
        """Send a request; return the status, and the JSON of the reply."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        headers: Mapping[str, str] = {"Content-Type": "application/json"}
        try:
            connection.request(method, path, body, dict(headers))
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def said(self, *arguments: str) -> str:
        """Return what a command of `nodekit chain` prints, indented."""
        command = [sys.executable, "-m", "nodekit.cli", "chain", *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=True)  # noqa: S603
        return "".join(f"  {line}\n" for line in done.stdout.splitlines())


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
