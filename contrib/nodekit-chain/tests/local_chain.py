"""A local chain with the contracts of the protocol, which tests control: blocks, time, the mempool, reorganisations."""

import itertools
import json
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

from chain_programs import NoChain, anvil, compiled
from coincurve import PrivateKey
from eth_abi.abi import decode, encode

from nodekit_chain.protocol.address import ZERO_ADDRESS
from nodekit_chain.protocol.keccak import keccak256

START_SECONDS = 60.0
ETHER = 10**18
CHAIN_ID = 31337
FEE = 500
"""Share of the protocol, in parts of 10 000. It takes it twice."""

LEASH = 'exec 3<&0; "$@" </dev/null & pid=$!; read -r _ <&3; kill -KILL $pid 2>/dev/null; wait $pid'
"""Runs the chain, and ends it when these tests end, also if they are killed: its standard input ends with them."""


class CallFailed(Exception):
    """The chain refuses a request. `data` are the bytes of a revert, if it is one."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("message", "?"))
        found = error.get("data")
        self.data = bytes.fromhex(found[2:]) if isinstance(found, str) and found.startswith("0x") else b""


class TransactionReverted(Exception):
    """A transaction was mined, and reverted."""


class LocalChain:
    """A chain that runs while it is entered. Blocks are mined for each transaction until `automine(False)`.

    Accounts that are unlocked (`chain.owner`) send what tests send; keys of a test's own come from `new_key`.
    """

    def __init__(self, *options: str) -> None:
        """`options` are further arguments of anvil."""
        self._options = options
        self._ids = itertools.count(1)
        self._connection: HTTPConnection | None = None
        self._marks: dict[int, str] = {}
        """Snapshots by the numbers of the blocks that were the newest then."""

    def __enter__(self) -> Self:
        program = anvil()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nkchain")))
            command = [str(program), "--host", "127.0.0.1", "--port", "0", "--chain-id", str(CHAIN_ID)]
            command += ["--hardfork", "prague", "--gas-limit", "100000000", "--order", "fifo", *self._options]
            log = stack.enter_context((folder / "log").open("w+"))
            leash = subprocess.Popen(
                ["sh", "-c", LEASH, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests
            )
            stack.callback(leash.wait)
            assert leash.stdin is not None
            stack.callback(leash.stdin.close)
            self.port = _port(folder / "log", leash)
            stack.callback(self._disconnect)
            self.owner: str = self.rpc("eth_accounts")[0]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # -- requests ---------------------------------------------------------------------------------

    def rpc(self, method: str, *params: Any) -> Any:
        """Call a method. Raise `CallFailed`."""
        body = json.dumps({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params})
        if self._connection is None:
            self._connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._connection.request("POST", "/", body, {"content-type": "application/json"})
        reply = json.loads(self._connection.getresponse().read())
        if error := reply.get("error"):
            raise CallFailed(error)
        return reply["result"]

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    # -- blocks and time --------------------------------------------------------------------------

    @property
    def height(self) -> int:
        return int(self.rpc("eth_blockNumber"), 16)

    @property
    def timestamp(self) -> int:
        """The time of the latest block."""
        return int(self.block()["timestamp"], 16)

    def block(self, number: int | str = "latest") -> dict[str, Any]:
        found: dict[str, Any] = self.rpc(
            "eth_getBlockByNumber", number if isinstance(number, str) else hex(number), False
        )
        return found

    def mine(self, blocks: int = 1, *, seconds: int | None = None) -> None:
        """Mine blocks, each that many seconds after the one before. None: as much as the clock says."""
        for _ in range(blocks):
            self._mark()
            if seconds is not None:
                self.rpc("evm_setNextBlockTimestamp", hex(self.timestamp + seconds))
            self.rpc("evm_mine")

    def automine(self, on: bool) -> None:
        """Mine a block for each transaction, or only where a test says so."""
        self.rpc("evm_setAutomine", on)

    def reorganise(self, depth: int) -> None:
        """Replace at least that many of the last blocks by as many empty ones; their transactions are gone.

        After `evm_revert`, which ends each test, `anvil_reorg` does not find the state of the block before.
        """
        height = self.height
        common = max(number for number in self._marks if number <= height - depth)
        automine = self.rpc("anvil_getAutomine")
        self.automine(False)
        assert self.rpc("evm_revert", self._marks[common])
        self.drop_transactions()
        self._marks = {number: mark for number, mark in self._marks.items() if number < common}
        self.set_balance(f"0x{secrets.token_hex(20)}", 1)  # so that no new block equals an old one
        self.mine(height - common)
        self.automine(automine)

    def _mark(self) -> None:
        """Remember the newest block, so that those above can be replaced."""
        if (height := self.height) not in self._marks:
            self._marks[height] = self.rpc("evm_snapshot")

    def drop_transactions(self) -> None:
        """Forget the transactions that wait for a block."""
        self.rpc("anvil_dropAllTransactions")

    def next_base_fee(self, wei: int) -> None:
        """Set the base fee of the next block; those after it follow from it."""
        self.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))

    def waiting(self) -> list[dict[str, Any]]:
        """Return the transactions that wait for a block."""
        found = self.rpc("txpool_content")
        return [one for kind in ("pending", "queued") for by in found[kind].values() for one in by.values()]

    def settle(self) -> None:
        """Wait until no transaction waits for a block. Blocks that are mined for each come a little after it."""
        deadline = time.monotonic() + START_SECONDS
        while self.waiting():
            assert time.monotonic() < deadline, "transactions wait for a block"
            time.sleep(0.005)

    def transactions_of(self, address: str) -> list[dict[str, Any]]:
        """Return the mined transactions of an account, oldest first, each with its `receipt`."""
        found = []
        for number in range(self.height + 1):
            block = self.rpc("eth_getBlockByNumber", hex(number), True)
            for one in block["transactions"]:
                if one["from"].lower() == address.lower():
                    found.append(one | {"receipt": self.rpc("eth_getTransactionReceipt", one["hash"])})
        return found

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo everything in the end: blocks, time, settings."""
        before, fee = self.rpc("evm_snapshot"), int(self.block()["baseFeePerGas"], 16)
        self._marks = {}
        try:
            yield
        finally:
            self.drop_transactions()
            self.automine(True)
            assert self.rpc("evm_revert", before)
            self._marks = {}
            self.next_base_fee(fee)  # which is not undone

    # -- accounts and contracts -------------------------------------------------------------------

    def new_key(self, wei: int = 10 * ETHER) -> tuple[str, str]:
        """Return a new private key, in hexadecimal digits, and its address, which has that much ether."""
        key = secrets.token_hex(32)
        public = PrivateKey.from_hex(key).public_key.format(compressed=False)
        address = "0x" + keccak256(public[1:])[12:].hex()
        self.set_balance(address, wei)
        return "0x" + key, address

    def set_balance(self, address: str, wei: int) -> None:
        self.rpc("anvil_setBalance", address, hex(wei))

    def balance(self, address: str) -> int:
        return int(self.rpc("eth_getBalance", address, "latest"), 16)

    def send(self, data: bytes, to: str | None = None, *, sender: str = "", value: int = 0) -> dict[str, Any]:
        """Send a transaction of an unlocked account, mine it, and return the receipt. Raise for a revert."""
        self._mark()
        sender = sender or self.owner
        fields = {"from": sender, "data": "0x" + data.hex(), "value": hex(value), "gas": hex(15_000_000)}
        hashed = self.rpc("eth_sendTransaction", fields | ({"to": to} if to else {}))
        if not self.rpc("anvil_getAutomine"):
            self.rpc("evm_mine")
        while (receipt := self.rpc("eth_getTransactionReceipt", hashed)) is None:
            time.sleep(0.005)  # the block is made after the reply
        if receipt["status"] != "0x1":
            raise TransactionReverted(hashed)
        found: dict[str, Any] = receipt
        return found

    def deploy(self, name: str, *arguments: Any) -> "Contract":
        """Deploy a contract of the folder `contracts`."""
        contract = compiled()[name]
        types = [kind for one in contract["abi"] if one["type"] == "constructor" for kind in types_of(one["inputs"])]
        receipt = self.send(bytes.fromhex(contract["bytecode"]) + encode(types, arguments))
        return Contract(self, name, receipt["contractAddress"])


class Contract:
    """A contract on the chain, by its compiled interface."""

    def __init__(self, chain: LocalChain, name: str, address: str) -> None:
        self.chain = chain
        self.address = address.lower()
        self.functions = {one["name"]: one for one in compiled()[name]["abi"] if one["type"] == "function"}
        self.events = {topic_of(one): one for one in compiled()[name]["abi"] if one["type"] == "event"}

    def data(self, function: str, *arguments: Any) -> bytes:
        entry = self.functions[function]
        types = types_of(entry["inputs"])
        return keccak256(f"{function}({','.join(types)})".encode())[:4] + encode(types, arguments)

    def call(self, function: str, *arguments: Any, sender: str = "") -> Any:
        """Return the result, or a tuple of several. Raise `CallFailed`."""
        fields = {"to": self.address, "data": "0x" + self.data(function, *arguments).hex()}
        found = self.chain.rpc("eth_call", fields | ({"from": sender} if sender else {}), "latest")
        values = decode(types_of(self.functions[function]["outputs"]), bytes.fromhex(found[2:]))
        return values[0] if len(values) == 1 else values

    def send(self, function: str, *arguments: Any, sender: str = "", value: int = 0) -> dict[str, Any]:
        """Call it in a transaction; return the receipt. Raise `TransactionReverted`."""
        return self.chain.send(self.data(function, *arguments), self.address, sender=sender, value=value)

    def logs(self, event: str = "", receipt: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the contract's events, oldest first: of a receipt, or of all blocks; `event` is a field of each."""
        query = {"address": self.address, "fromBlock": "0x0", "toBlock": "latest"}
        found = self.chain.rpc("eth_getLogs", query) if receipt is None else receipt["logs"]
        read = [self._read(log) for log in found if log["address"].lower() == self.address]
        return [one for one in read if event in ("", one["event"])]

    def _read(self, log: Mapping[str, Any]) -> dict[str, Any]:
        topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
        entry = self.events[topics[0]]
        names = {True: [], False: []}  # type: dict[bool, list[str]]
        types = {True: [], False: []}  # type: dict[bool, list[str]]
        for one in entry["inputs"]:
            names[one["indexed"]].append(one["name"])
            types[one["indexed"]] += types_of([one])
        values = decode(types[True], b"".join(topics[1:])) + decode(types[False], bytes.fromhex(log["data"][2:]))
        return {"event": entry["name"]} | dict(zip(names[True] + names[False], values, strict=True))


class Contracts:
    """The contracts of the protocol on a chain."""

    def __init__(self, chain: LocalChain) -> None:
        self.chain = chain
        self.registry = chain.deploy("Registry")
        self.fee_recipient = chain.new_key(0)[1]
        self.fee = chain.deploy("Fee", FEE, self.fee_recipient)
        self.coordinator, self.reader, self.inbox, self.factory = (
            chain.deploy(name, self.registry.address) for name in ("Coordinator", "Reader", "Inbox", "WalletFactory")
        )
        them = (self.coordinator, self.reader, self.inbox, self.fee, self.factory)
        self.registry.send("set", *(one.address for one in them))

    def consumer(self, inputs: bytes = b"") -> "ConsumerContract":
        """Deploy a consumer, which supplies these inputs."""
        deployed = self.chain.deploy("Consumer", self.registry.address)
        consumer = ConsumerContract(self.chain, "Consumer", deployed.address)
        if inputs:
            consumer.send("setInputs", inputs)
        return consumer

    def wallet(self, owner: str, wei: int = 0) -> Contract:
        """Make a wallet, with that much ether."""
        receipt = self.factory.send("createWallet", owner)
        [made] = self.factory.logs("WalletCreated", receipt)
        if wei:
            self.chain.send(b"", made["wallet"], value=wei)
        return Contract(self.chain, "Wallet", made["wallet"])

    def token(self) -> Contract:
        return self.chain.deploy("Token")

    def verifier(self) -> Contract:
        """Deploy a verifier whose wallet is its own; set tokens and fees with `setToken`."""
        wallet = self.wallet(self.chain.owner)
        return self.chain.deploy("Verifier", self.registry.address, wallet.address)


MODES = ("take", "revert with reason", "revert with error", "revert empty", "burn", "reenter", "refuse", "unpaid")


class ConsumerContract(Contract):
    """A consumer: it owns subscriptions and receives results."""

    def subscribe(
        self,
        containers: Sequence[str],
        *,
        frequency: int = 1,
        period: int = 0,
        redundancy: int = 1,
        lazy: bool = False,
        token: str = ZERO_ADDRESS,
        amount: int = 0,
        wallet: str = ZERO_ADDRESS,
        verifier: str = ZERO_ADDRESS,
    ) -> int:
        """Create a subscription; return its id."""
        rest = (redundancy, lazy, token, amount, wallet, verifier)
        receipt = self.send("subscribe", ",".join(containers), frequency, period, *rest)
        [created] = (log for log in receipt["logs"] if len(log["topics"]) == 2)
        return int(created["topics"][1], 16)

    def subscribe_times(self, times: int, containers: Sequence[str], *, frequency: int = 1, period: int = 0) -> None:
        """Create that many equal subscriptions, in blocks of fifty."""
        for begun in range(0, times, 50):
            self.send("subscribeTimes", min(50, times - begun), ",".join(containers), frequency, period)

    def cancel(self, id: int) -> None:
        self.send("cancel", id)

    def mode(self, name: str) -> None:
        """Choose what becomes of results: one of `MODES`."""
        self.send("setMode", MODES.index(name))

    def received(self, id: int | None = None) -> list[dict[str, Any]]:
        """Return the results that have arrived, of a subscription or of all."""
        return [one for one in self.logs("Received") if id in (None, one["id"])]


def types_of(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ABI types of an interface's parameters, with those of structs written out."""
    found = []
    for one in entries:
        kind: str = one["type"]
        found.append(f"({','.join(types_of(one['components']))}){kind[5:]}" if kind.startswith("tuple") else kind)
    return found


def topic_of(event: Mapping[str, Any]) -> bytes:
    return keccak256(f"{event['name']}({','.join(types_of(event['inputs']))})".encode())


def _port(log: Path, process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"Listening on [\d.]+:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.01)
    raise NoChain(f"anvil did not start: {log.read_text()[-500:]}")
