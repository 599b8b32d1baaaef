"""Inputs and outputs of containers."""

from typing import Any

import pytest
from eth_abi.abi import decode

from nodekit_chain.protocol.containers import KEYS, InvalidOutput, container_input, delivery

FIVE = {"raw_input": "01", "processed_input": None, "raw_output": "0203", "processed_output": "", "proof": "ff"}


def test_input_is_hexadecimal_without_a_prefix() -> None:
    assert container_input(b"\x00\xff") == "00ff"


def test_an_output_of_the_five_keys_is_delivered_as_it_says() -> None:
    made = delivery(FIVE)
    assert decode(["bytes", "bytes"], made.input) == (b"\x01", b"")
    assert decode(["bytes", "bytes"], made.output) == (b"\x02\x03", b"")
    assert made.proof == b"\xff"


def test_further_keys_do_not_matter() -> None:
    assert delivery({**FIVE, "more": 1}) == delivery(FIVE)


@pytest.mark.parametrize("missing", KEYS)
def test_without_one_of_the_keys_the_object_itself_is_delivered(missing: str) -> None:
    output = {key: value for key, value in FIVE.items() if key != missing}
    made = delivery(output)
    assert (made.input, made.proof) == (b"", b"")
    assert decode(["string"], made.output) == (str(output),)


def test_other_output_is_written_as_python_does() -> None:
    made = delivery({"text": "it's", "list": [1.5, True, None]})
    assert decode(["string"], made.output) == ("""{'text': "it's", 'list': [1.5, True, None]}""",)


def test_other_output_is_json_where_the_settings_say_so() -> None:
    assert decode(["string"], delivery({"a": None}, as_json=True).output) == ('{"a":null}',)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["0x01", "1", "zz", "０１", 7, ["01"], {}, True])
def test_what_is_no_hexadecimal_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(InvalidOutput, match=f"^{key}: expected hexadecimal digits"):
        delivery({**FIVE, key: value})


def test_a_number_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(InvalidOutput, match="too long"):
        delivery({"number": 10**5000})


@pytest.mark.parametrize("as_json", [False, True])
def test_text_that_is_no_unicode_is_delivered_escaped(as_json: bool) -> None:
    (text,) = decode(["string"], delivery({"text": "\ud800"}, as_json=as_json).output)
    assert r"\ud800" in text
