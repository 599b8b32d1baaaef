"""Inputs and outputs of containers, as contracts have them."""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from eth_abi.abi import encode

from nodekit import NodekitError

KEYS = ("raw_input", "processed_input", "raw_output", "processed_output", "proof")
"""An output that has all of these says itself what is delivered: each is hexadecimal digits, or null for no bytes."""

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")


class InvalidOutput(NodekitError):
    """A container's output cannot be delivered. The message names the key."""


class Delivery(msgspec.Struct, frozen=True):
    """The bytes of a result, as `deliverCompute` takes them."""

    input: bytes
    output: bytes
    proof: bytes


def container_input(data: bytes) -> str:
    """Return a contract's input as the first container gets it: hexadecimal digits, without 0x."""
    return data.hex()


def delivery(output: Mapping[str, Any], *, as_json: bool = False) -> Delivery:
    """Return what is delivered for the output of the last container. Raise `InvalidOutput`.

    An output that has all `KEYS` says it: input and output are `abi.encode(bytes raw, bytes processed)`. Any other is
    `abi.encode(string)` of the object as Python writes it, with single quotes, since consumers expect that of other
    nodes. `as_json` writes JSON instead.
    """
    if not all(key in output for key in KEYS):
        return Delivery(b"", encode(["string"], [_text(output, as_json)]), b"")
    raw_input, processed_input, raw_output, processed_output, proof = (_bytes(key, output[key]) for key in KEYS)
    pair = ["bytes", "bytes"]
    return Delivery(encode(pair, [raw_input, processed_input]), encode(pair, [raw_output, processed_output]), proof)


def _text(output: Mapping[str, Any], as_json: bool) -> str:
    try:
        return json.dumps(output, separators=(",", ":")) if as_json else str(dict(output))
    except ValueError as error:  # Python writes no number of more than 4300 digits
        raise InvalidOutput(f"the output has a number that is too long: {error}") from error


def _bytes(key: str, value: Any) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        found = "an odd or foreign character" if isinstance(value, str) else f"{type(value).__name__}"
        raise InvalidOutput(f"{key}: expected hexadecimal digits without 0x, two for each byte, or null; found {found}")
    return bytes.fromhex(value)
