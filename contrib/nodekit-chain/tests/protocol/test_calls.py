"""Calls and events: selectors and types agree with the compiler's, and replies of another form are refused."""

from itertools import chain as chained
from typing import Any

import pytest
from chain_programs import compiled
from eth_utils.abi import function_signature_to_4byte_selector
from local_chain import Contracts, topic_of, types_of

from nodekit_chain.protocol import contracts as interfaces
from nodekit_chain.protocol.calls import Function, LogEvent, UnreadableReply
from nodekit_chain.protocol.keys import delegated_key, node_key

NODE = "0x" + "12" * 20
INTERFACES = (
    "Registry", "Coordinator", "Reader", "WalletFactory", "Wallet", "Fee", "Consumer", "Verifier", "Token",
)  # fmt: skip
GOLDEN = {
    "deliverCompute": "c509543d",
    "getSubscription": "a17b920b",
    "id": "af640d0f",
    "deliverComputeDelegatee": "9fff314a",
    "readSubscriptionBatch": "3ddc29f5",
    "getContainerInputs": "962fad75",
}


def declared(kind: type) -> list[tuple[str, Any]]:
    return [(name, one) for name in INTERFACES for one in vars(getattr(interfaces, name)).values() if type(one) is kind]


@pytest.mark.parametrize("contract", INTERFACES)
def test_functions_and_events_are_those_of_the_compiled_contracts(contract: str, contracts: Contracts) -> None:
    entries = compiled()[contract]["abi"]
    found = {one["name"]: one for one in entries if one["type"] in ("function", "event")}
    for name, one in chained(declared(Function), declared(LogEvent)):
        if name != contract:
            continue
        entry = found[one.name]
        if isinstance(one, Function):
            assert types_of(entry["inputs"]) == list(one.inputs), one.name
            assert types_of(entry["outputs"])[: len(one.outputs)] == list(one.outputs), one.name
        else:
            assert topic_of(entry) == one.topic, one.name
            assert types_of([part for part in entry["inputs"] if part["indexed"]]) == list(one.indexed), one.name


@pytest.mark.parametrize(("name", "expected"), GOLDEN.items())
def test_selectors_are_those_of_the_protocol(name: str, expected: str) -> None:
    [found] = [one for _, one in declared(Function) if one.name == name]
    assert found.selector.hex() == function_signature_to_4byte_selector(found.signature).hex() == expected


@pytest.mark.parametrize("data", [b"", b"\0" * 31, b"\xff" * 32])
def test_a_reply_of_another_form_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(UnreadableReply, match=r"^COORDINATOR: expected \(address\)"):
        interfaces.Registry.COORDINATOR.decode(data)


def test_bytes_that_promise_more_than_there_is_are_refused() -> None:
    reader = interfaces.Reader.read_subscription_batch
    with pytest.raises(UnreadableReply):
        reader.decode(b"\0" * 31 + b"\x20" + b"\xff" * 32)


def test_a_log_of_another_event_is_refused() -> None:
    with pytest.raises(UnreadableReply, match="not of the event"):
        interfaces.Coordinator.cancelled.decode([interfaces.Coordinator.proof_verified.topic, bytes(32)], b"")


def test_a_log_is_read(contracts: Contracts) -> None:
    consumer = contracts.consumer()
    consumer.cancel(id := consumer.subscribe(["a"]))
    query = {"address": contracts.coordinator.address, "fromBlock": "latest", "toBlock": "latest"}
    [log] = contracts.chain.rpc("eth_getLogs", query)
    topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
    assert interfaces.Coordinator.cancelled.decode(topics, bytes.fromhex(log["data"][2:])) == (id,)


def test_keys_are_those_of_the_coordinator(contracts: Contracts) -> None:
    consumer, owner = contracts.consumer(), contracts.chain.owner
    id = consumer.subscribe(["a"])
    contracts.coordinator.send("deliverCompute", id, 1, b"", b"", b"", NODE)
    assert contracts.coordinator.call("nodeResponded", node_key(id, 1, owner)) is True
    assert contracts.coordinator.call("delegateCreatedIds", delegated_key(consumer.address, 1)) == 0
