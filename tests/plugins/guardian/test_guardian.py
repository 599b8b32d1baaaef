"""The plugin `guardian`: refusals verbatim, in their order."""

from typing import Any

import pytest
from components import SwitchRunner, make_node
from msgspec.structs import replace

from nodekit import CompositionError, Container, Job, JobRequest, Location, Refusal, encode_payload
from nodekit_guardian import Guardian, GuardianRules, rules

pytestmark = pytest.mark.anyio


def guarded(**containers: dict[str, Any]) -> Any:
    runner = SwitchRunner(*(Container(id=id, rules=settings) for id, settings in containers.items()), up=[])
    return make_node(runner, plugins=[Guardian()], drain_seconds=0)


def asking(*containers: str, address: str | None = "192.0.2.1", proof: bool = False) -> JobRequest:
    return JobRequest(containers=containers, data=encode_payload({}), address=address, requires_proof=proof)


async def refusal(node: Any, request: JobRequest) -> tuple[str, dict[str, Any]] | None:
    (answer,) = await node.submit_many([request])
    if isinstance(answer, Job):
        return None
    assert isinstance(answer, Refusal)
    return answer.reason, answer.params


async def test_without_rules_everything_is_allowed_but_proofs() -> None:
    async with guarded(a={}) as node:
        assert await refusal(node, asking("a", "a")) is None
        assert await refusal(node, asking("a", address=None)) is None
        proofless = ("Container does not generate proof", {"container": "a"})
        assert await refusal(node, asking("a", proof=True)) == proofless


async def test_the_first_container_must_be_external_and_only_the_first() -> None:
    async with guarded(a={}, inner=rules(external=False)) as node:
        assert await refusal(node, asking("inner", "a")) == (
            "First container must be external",
            {"first_container": "inner"},
        )
        assert await refusal(node, asking("a", "inner")) is None


async def test_the_last_container_must_generate_the_proof_that_is_required() -> None:
    async with guarded(a={}, proof=rules(generates_proofs=True)) as node:
        assert await refusal(node, asking("a", "proof", proof=True)) is None
        assert await refusal(node, asking("proof", "a")) is None
        refused = await refusal(node, asking("proof", "a", proof=True))
        assert refused == ("Container does not generate proof", {"container": "a"})


async def test_every_step_is_checked_for_the_address() -> None:
    async with guarded(
        a={}, near=rules(allowed_ips=("10.0.0.0/8",)), other=rules(allowed_ips=("10.1.0.0/16",))
    ) as node:
        refused = await refusal(node, asking("a", "a", "near"))
        assert refused == ("Container not allowed for address", {"container": "near", "address": "192.0.2.1"})
        assert await refusal(node, asking("a", "near", address="10.2.0.1")) is None
        refused = await refusal(node, asking("near", "a", "other", address="10.2.0.1"))
        assert refused == ("Container not allowed for address", {"container": "other", "address": "10.2.0.1"})


async def test_work_for_a_chain_has_no_address() -> None:
    async with guarded(a=rules(allowed_ips=("10.0.0.0/8",)), inner=rules(external=False)) as node:
        work = replace(asking("a", address=None), origin=Location.ONCHAIN, destination=Location.ONCHAIN)
        assert await refusal(node, work) is None
        assert await refusal(node, replace(work, destination=Location.OFFCHAIN)) is not None
        reason, _ = await refusal(node, replace(work, containers=("inner",))) or ("", {})
        assert reason == "First container must be external"


async def test_refusals_come_in_their_order() -> None:
    nothing_right = rules(external=False, allowed_ips=("10.0.0.1",))
    async with guarded(bad=nothing_right, open=rules(allowed_ips=("10.0.0.1",)), a={}) as node:
        reasons = [
            await refusal(node, asking(proof=True)),
            await refusal(node, asking("bad", "unknown", proof=True)),
            await refusal(node, asking("bad", "bad", proof=True)),
            await refusal(node, asking("open", "bad", proof=True)),
            await refusal(node, asking("open", "bad")),
        ]
    assert [found and found[0] for found in reasons] == [
        "No containers specified",
        "Container not supported",
        "First container must be external",
        "Container does not generate proof",
        "Container not allowed for address",
    ]


@pytest.mark.parametrize(
    ("allowed", "address", "fits"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("0.0.0.0/0", "8.8.8.8", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("2001:db8::1", "2001:db8::1", True),
        ("2001:db8::1", "2001:0DB8:0:0::1", True),
        ("2001:db8::/32", "2001:db8:ffff::9", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "192.0.2.1", False),
        ("::1", "127.0.0.1", False),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("::ffff:192.0.2.0/120", "192.0.2.7", True),
        ("::ffff:192.0.2.0/120", "192.0.3.7", False),
        ("192.0.2.1", None, False),
        ("0.0.0.0/0", None, False),
        ("192.0.2.1", "not an address", False),
        ("192.0.2.1", "", False),
        ("fe80::/10", "fe80::1%eth0", True),
    ],
)
async def test_addresses_and_networks_of_both_families(allowed: str, address: str | None, fits: bool) -> None:
    async with guarded(a=rules(allowed_ips=("203.0.113.5", allowed))) as node:
        found = await refusal(node, asking("a", address=address))
        expected = ("Container not allowed for address", {"container": "a", "address": address or ""})
        assert found == (None if fits else expected)


@pytest.mark.parametrize("wrong", ["nonsense", "192.0.2.0/33", "192.0.2.1/24", "300.1.1.1", "", "::1/129"])
def test_what_is_no_address_is_refused_when_the_node_is_composed(wrong: str) -> None:
    with pytest.raises(CompositionError, match="allowed_ips"):
        guarded(a={"allowed_ips": [wrong]})
    with pytest.raises(ValueError, match="allowed_ips"):
        GuardianRules(allowed_ips=(wrong,))
