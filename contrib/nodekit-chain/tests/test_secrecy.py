"""The private key, and keys in URLs, stay where they were given: a whole node runs, and all that it says is read."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from independent import Account
from local_chain import Contracts
from rpc_proxy import RpcProxy

from nodekit import Secret
from nodekit_chain import Chain, ChainConfig, WalletConfig

LIMIT_SECONDS = 30.0
FILE = """
[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "function"

[[runners.containers]]
id = "echo"
call = "functions.py:echo"

[[transports]]
use = "asgi"

[[plugins]]
use = "chain"
rpc_url = [{{ env = "RPC" }}]
registry_address = "{registry}"
trail_head_blocks = 0
confirmations = 1
wallet = {{ {wallet} }}
"""
KINDS = {
    "from the environment": 'private_key = { env = "PRIVATE_KEY" }',
    "from a file": 'private_key = { file = "key.txt" }',
    "from a keystore": 'keystore = "keystore.json", keystore_password = { env = "PASSWORD" }',
}


class Running:
    """A node in a process of its own, and everything that it prints."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._log = folder / "printed.txt"
        command = [*NODEKIT, "serve", "--bind", "127.0.0.1:0", "--log-level", "debug", "--trace-hooks", "node.toml"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def port(self) -> int:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (found := re.search(r"^listening on http://127\.0\.0\.1:(\d+)$", self.printed, re.MULTILINE)):
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.02)
        return int(found[1])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT_SECONDS) == 0


NODEKIT = [sys.executable, "-m", "nodekit"]


def got(port: int, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def forms(secret: str) -> Iterator[bytes]:
    """Yield the ways in which a key could be written."""
    digits = secret.removeprefix("0x")
    number = int(digits, 16)
    for text in (digits, digits.upper(), str(number), repr(bytes.fromhex(digits)), str(list(bytes.fromhex(digits)))):
        yield text.encode()
    yield bytes.fromhex(digits)


@pytest.fixture
def proxy(contracts: Contracts) -> Iterator[RpcProxy]:
    """An endpoint that answers below any path."""
    with RpcProxy(contracts.chain.url) as proxy:
        yield proxy


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_a_node_says_or_stores_has_the_key(
    kind: str, contracts: Contracts, proxy: RpcProxy, tmp_path: Path
) -> None:
    chain = contracts.chain
    key, address = chain.new_key()
    (tmp_path / "functions.py").write_text("async def echo(data):\n    return {'said': data}\n")
    (tmp_path / "node.toml").write_text(FILE.format(registry=contracts.registry.address, wallet=KINDS[kind]))
    given = {"PRIVATE_KEY": key, "PASSWORD": "pass-word-of-keystore", "RPC": f"{proxy.url}/v3/key-of-provider"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | given
    if kind == "from a file":
        (tmp_path / "key.txt").write_text(key)
    if kind == "from a keystore":
        made = Account.encrypt(key, given["PASSWORD"], kdf="scrypt", iterations=1024)
        (tmp_path / "keystore.json").write_text(json.dumps(made))
    consumer = contracts.consumer(b"question")
    node = Running(tmp_path, environment)
    try:
        port = node.port()
        id = consumer.subscribe(["echo"])
        chain.rpc("evm_setAutomine", False)
        deadline = time.monotonic() + LIMIT_SECONDS
        while not consumer.received(id):
            assert node.process.poll() is None, node.printed
            assert time.monotonic() < deadline, node.printed
            chain.mine()
            time.sleep(0.05)
        pages = ("/info", "/health", "/-/chain/", "/-/chain/show?id=1", "/openapi.json", "/api/jobs")
        texts = [got(port, path) for path in pages]
        for command in (["config", "show", "node.toml"], ["check", "node.toml"], ["doctor", "node.toml"]):
            done = subprocess.run([*NODEKIT, *command], cwd=tmp_path, env=environment, capture_output=True, check=False)
            texts.append((done.stdout + done.stderr).decode())
        assert f'"address":"{address}"' in texts[0]
    finally:
        node.stop() if node.process.poll() is None else None
    texts.append(node.printed)
    given_in = ("key.txt", "keystore.json")
    stored = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name not in given_in]
    assert any(address.encode() in data for data in stored)
    for form in [*forms(key), b"pass-word-of-keystore", b"key-of-provider"]:
        assert not any(form in text.encode() for text in texts), form
        assert not any(form in data for data in stored), form


def test_a_dump_of_the_settings_has_no_key() -> None:
    key = "42" * 32
    wallet = WalletConfig(private_key=Secret(key))
    config = ChainConfig(rpc_url=("http://user:word@host/path-key",), registry_address="0x" + "aa" * 20, wallet=wallet)
    plugin = Chain(config)
    shown: list[Any] = [wallet, plugin, vars(plugin), msgspec.structs.asdict(wallet)]
    assert not any(form.decode(errors="replace") in repr(one) for form in forms(key) for one in shown)
    with pytest.raises(TypeError):
        msgspec.json.encode(wallet)
