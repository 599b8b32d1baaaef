"""An Infernet node's ``config.json`` with ``chain.enabled`` is served unchanged, on a real chain, by a real process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from chain_node import free_port
from delegation import Owner
from eth_abi.abi import decode
from local_chain import Contracts

from nodekit_chain.protocol.address import ZERO_ADDRESS

LIMIT_SECONDS = 60.0


class Container(BaseHTTPRequestHandler):
    """A container that returns what it was given."""

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps({"given": given}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def container() -> Iterator[int]:
    """The port of a container."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Container)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def config(contracts: Contracts, container: int, port: int, key: str) -> dict[str, Any]:
    return {
        "server": {"port": port},
        "manage_containers": False,
        "chain": {
            "enabled": True,
            "rpc_url": contracts.chain.url,
            "trail_head_blocks": 0,
            "registry_address": contracts.registry.address,
            "wallet": {
                "max_gas_limit": 4_000_000,
                "private_key": key,
                "payment_address": "",
                "allowed_sim_errors": ["not enough balance"],
            },
            "snapshot_sync": {"sleep": 0.1, "batch_size": 50, "starting_sub_id": 0, "sync_period": 0.1},
        },
        "containers": [
            {
                "id": "hello",
                "url": f"http://127.0.0.1:{container}",
                "external": True,
                "allowed_ips": ["10.0.0.0/8"],
                "allowed_addresses": [],
                "accepted_payments": {ZERO_ADDRESS: 0},
            }
        ],
    }


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def test_it_serves_subscriptions_of_both_kinds(contracts: Contracts, container: int, tmp_path: Path) -> None:
    owner, port = Owner(contracts), free_port()
    key, address = contracts.chain.new_key()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config(contracts, container, port, key)))
    consumer = contracts.consumer(b"\x12\x34")
    id = consumer.subscribe(["hello"])
    command = [sys.executable, "-m", "nodekit.cli", "serve", str(file)]
    with (tmp_path / "log").open("w") as log:
        node = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        until(node, lambda: bool(consumer.received(id)), contracts)
        assert ask(port, "GET", "/info")[1]["chain"] == {"enabled": True, "address": address}
        (output,) = decode(["string"], consumer.received(id)[0]["output"])
        assert output == "{'given': {'source': 0, 'destination': 0, 'data': '1234', 'requires_proof': False}}"
        body = owner.signed(owner.subscription(["hello"]), nonce=2**32 - 1, data={"n": 2**255})
        assert ask(port, "POST", "/api/jobs", body) == (200, {})
        until(node, lambda: bool(owner.consumer.received()), contracts)
        (output,) = decode(["string"], owner.consumer.received()[0]["output"])
        given = {"source": 1, "destination": 0, "data": {"n": 2**255}, "requires_proof": False}
        assert output == str({"given": given})
        wrong = {**body, "signature": {**body["signature"], "nonce": 5}}
        status, answer = ask(port, "POST", "/api/jobs", wrong)
        assert (status, answer["error"]) == (405, "Signer mismatch")
        [item, again] = ask(port, "POST", "/api/jobs/batch", [wrong, body])[1]
        assert (item["error"], again) == ("Signer mismatch", {})
        assert ask(port, "POST", "/api/jobs/stream", body)[0] == 405
        assert "this node watches and sends" in said(port, "status")
        for arguments in (["show", str(id)], ["show", f"{owner.consumer.address}/{2**32 - 1}"]):
            assert "mined" in (text := said(port, *arguments)) or "done" in text, text
    finally:
        node.terminate()
        assert node.wait(60) == 0
    text = (tmp_path / "log").read_text() + (tmp_path / "infernet_node.log").read_text()
    assert "no chain plugin is installed" not in text
    assert key[2:] not in text


def said(port: int, *arguments: str) -> str:
    """Return what a command of `nodekit chain` prints."""
    env = {**os.environ, "NODEKIT_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "nodekit.cli", "chain", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def until(node: "subprocess.Popen[bytes]", done: Any, contracts: Contracts) -> None:
    """Mine blocks until something has happened."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not done():
        assert node.poll() is None, "the node has ended"
        assert time.monotonic() < deadline, "it did not happen"
        contracts.chain.mine()
        time.sleep(0.05)
