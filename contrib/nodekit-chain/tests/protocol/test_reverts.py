"""Reverts: each reason of the coordinator is known by its bytes."""

import re
from pathlib import Path

import pytest
from eth_abi.abi import encode

from nodekit_chain.protocol.reverts import BY_SELECTOR, REMEDIES, Remedy, is_tolerated, revert_of

GOLDEN = {
    "SubscriptionNotFound": "1a00354f",
    "SubscriptionNotActive": "efb74efe",
    "IntervalMismatch": "4db310c3",
    "SubscriptionCompleted": "ae6704a7",
    "IntervalCompleted": "2f4ca85b",
    "NodeRespondedAlready": "88a21e4f",
    "InvalidWallet": "23455ba1",
    "UnsupportedVerifierToken": "e2372799",
    "InsufficientAllowance": "13be252b",
    "InsufficientFunds": "356680b7",
    "TransferFailed": "90b8ec18",
    "ETHTransferFailed": "b12d13eb",
    "SignatureExpired": "0819bdcd",
    "InvalidSignature": "8baa579f",
    "SignerMismatch": "10c74b03",
    "NotSubscriptionOwner": "a7fba711",
    "UnauthorizedVerifier": "b9857aa1",
    "ProofRequestNotFound": "1d68b37c",
    "NodeNotAllowed": "42764946",
    "InsufficientBalance": "f4d678b8",
    "Reentrancy": "ab143c06",
}


def test_the_selectors_are_those_of_the_protocol() -> None:
    assert {name: key.hex() for key, name in BY_SELECTOR.items()} == GOLDEN


@pytest.mark.parametrize(("name", "data"), GOLDEN.items())
def test_a_revert_is_known_by_its_bytes(name: str, data: str) -> None:
    assert revert_of(bytes.fromhex(data)).name == name


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (bytes.fromhex("08c379a0") + encode(["string"], ["not today"]), "not today"),
        (bytes.fromhex("08c379a0") + encode(["string"], ["\x1b[31mred"]), r"\x1b[31mred"),
        (bytes.fromhex("08c379a0") + b"\xff" * 40, "0x08c379a0" + "f" * 64 + "…"),
        (bytes.fromhex("4e487b71") + encode(["uint256"], [0x11]), "Panic(0x11)"),
        (bytes.fromhex("deadbeef"), "0xdeadbeef"),
        (b"", "reverted without a reason"),
    ],
)
def test_a_consumers_own_error_has_a_name_and_is_tried_again(data: bytes, name: str) -> None:
    revert = revert_of(data)
    assert (str(revert), revert.remedy) == (name, Remedy.RETRY)


@pytest.mark.parametrize("remedy", Remedy)
def test_the_readme_says_what_is_done(remedy: Remedy) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    [row] = re.findall(rf"^\| {remedy} \| (.*?) \|", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`([A-Z]\w+)`", row)) == {name for name, one in REMEDIES.items() if one is remedy}


def test_text_of_a_contract_is_cut() -> None:
    assert len(revert_of(bytes.fromhex("08c379a0") + encode(["string"], ["a" * 10_000])).name) == 200


@pytest.mark.parametrize(
    ("tolerated", "expected"), [("NOT today", True), ("0x08c379", True), ("reverted", True), ("yes", False)]
)
def test_a_simulation_may_fail_as_the_settings_allow(tolerated: str, expected: bool) -> None:
    revert = revert_of(bytes.fromhex("08c379a0") + encode(["string"], ["not today"]))
    assert is_tolerated(revert, "execution reverted: not today", [tolerated]) is expected
