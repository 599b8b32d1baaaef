"""The plugin `guardian`: rules that say who may call a container, and at which place in a pipeline."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import msgspec

from nodekit import Container, ContainerId, JobRequest, Location, Node, Provider, Refusal

__all__ = ["Guardian", "GuardianConfig", "GuardianRules", "provider", "rules"]


class GuardianConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The plugin's settings. It has none of its own; its rules are part of the containers' settings."""


class GuardianRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of one container.

    - `external`: True if it may be the first container of a job.
    - `allowed_ips`: Addresses and networks (CIDR, v4 and v6) that may use it; empty: all. Jobs whose results go to a
      chain come from no address.
    - `generates_proofs`: True if it may be the last container of a job that requires a proof.
    """

    external: bool = True
    allowed_ips: tuple[str, ...] = ()
    generates_proofs: bool = False

    def __post_init__(self) -> None:
        wrong: list[str] = []
        for allowed in self.allowed_ips:
            try:
                ip_network(allowed)
            except ValueError as error:
                wrong.append(str(error))
        if wrong:
            raise ValueError(f"allowed_ips: {'; '.join(wrong)}; expected an address or a network such as 10.0.0.0/8")


def rules(
    *, external: bool = True, allowed_ips: tuple[str, ...] = (), generates_proofs: bool = False
) -> dict[str, Any]:
    """Return rules for `Container.rules`, for use from Python."""
    checked = GuardianRules(external=external, allowed_ips=allowed_ips, generates_proofs=generates_proofs)
    return msgspec.structs.asdict(checked)


class _Compiled:
    """The rules of one container, prepared for checks. IPv4 addresses mapped into IPv6 are compared as IPv4."""

    def __init__(self, container: Container) -> None:
        own = {key: value for key, value in container.rules.items() if key in GuardianRules.__struct_fields__}
        rules = msgspec.convert(own, GuardianRules)
        self.external = rules.external
        self.generates_proofs = rules.generates_proofs
        self.networks = [_unmapped_network(ip_network(allowed)) for allowed in rules.allowed_ips]

    def allows(self, address: str | None) -> bool:
        if not self.networks:
            return True
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self.networks)


class Guardian:
    """A guard that refuses requests that the containers' rules forbid."""

    container_rules = GuardianRules

    def __init__(self) -> None:
        self._compiled: dict[ContainerId, tuple[Container, _Compiled]] = {}

    async def nodekit_admit(self, request: JobRequest, node: Node) -> None:
        names = request.containers
        rules = {name: self._rules(node.containers[name]) for name in names if name in node.containers}
        if names and names[0] in rules and not rules[names[0]].external:
            raise Refusal("First container must be external", first_container=names[0])
        if request.requires_proof and names and names[-1] in rules and not rules[names[-1]].generates_proofs:
            raise Refusal("Container does not generate proof", container=names[-1])
        if request.destination is Location.ONCHAIN:  # work for a contract, whose address a plugin has checked
            return
        for name, rule in rules.items():
            if not rule.allows(request.address):
                raise Refusal("Container not allowed for address", container=name, address=request.address or "")

    def _rules(self, container: Container) -> _Compiled:
        known = self._compiled.get(container.id)
        if known is None or known[0] is not container:
            known = self._compiled[container.id] = container, _Compiled(container)
        return known[1]


def _parse(address: str | None) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


provider = Provider(GuardianConfig, lambda config, file: Guardian(), container=GuardianRules)
