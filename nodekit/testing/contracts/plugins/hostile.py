"""Requests and outputs as odd as a node lets through."""

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from nodekit import MAX_DEPTH, ContainerId, JobRequest, Location
from nodekit.testing.builders.jobs import make_request
from nodekit.testing.contracts.stores.keeping import ODD_PAYLOAD

HOSTILE_PAYLOADS: tuple[msgspec.Raw, ...] = (
    ODD_PAYLOAD,
    *(
        msgspec.Raw(text.encode())
        for text in (
            *(
                "null",
                "true",
                "0",
                "-0.0",
                "1e400",
                "1" + "0" * 77,
                '""',
                '"text"',
                '"\\u0000\\ud83d\\ude00"',
                "[]",
                "{}",
            ),
            '{"": {"": [null, {}]}, "a": 1, "a": "twice"}',
            '{"__class__": "x", "text": null, "data": [], "containers": {}, "next": 7, "n": -1}',
            "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1),
            '"' + "x" * 300_000 + '"',
        )
    ),
)
"""JSON that passes a node's checks: every type, `1e400` (which `decode_payload` cannot read), deep and long values."""

_ADDRESSES = (None, "", "no address", "::1", "::ffff:192.0.2.1", "fe80::1%eth0", "999.1.1.1")
_NAMES = ("", " ", "no-such-container", "../echo", "ECHO", "é", "x" * 10_000)


def hostile_requests(*containers: ContainerId, pipeline: str = "sequence") -> Iterator[JobRequest]:
    """Yield requests for these containers with odd payloads, addresses, clients, names and numbers of containers."""
    plain = make_request(*containers, pipeline=pipeline)
    for data in HOSTILE_PAYLOADS:
        yield replace(plain, data=data)
    for address in _ADDRESSES:
        yield replace(plain, address=address)
    for client in ("", "x" * 10_000, "alice' OR '1'='1", "\x00"):
        yield replace(plain, client=client)
    for names in ((), *((name,) for name in _NAMES), (*containers, "no-such-container"), containers * 100):
        yield replace(plain, containers=names)
    yield replace(plain, priority=0, requires_proof=True, idempotency_key="", body_digest="")
    yield replace(plain, origin=Location.ONCHAIN, destination=Location.STREAM)
