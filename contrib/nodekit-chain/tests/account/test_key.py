"""Keys: signatures agree with an independent library, and no text that anybody reads shows a key."""

import copy
import json
import logging
import pickle
import traceback

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from independent import Account

from nodekit_chain.account.key import AccountKey, InvalidKey
from nodekit_chain.account.keystore import opened
from nodekit_chain.protocol.delegated import ORDER, Signature, recovered

SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"  # of the documents of web3
ADDRESS = "0x2c7536e3605d9c16a7a3d7b1898e529396a65c23"


@pytest.mark.parametrize("text", [SECRET, "0x" + SECRET, f" {SECRET.upper()}\n"])
def test_a_key_has_its_address(text: str) -> None:
    assert AccountKey.parse(text).address == ADDRESS


NO_KEYS = (SECRET[:-1], SECRET + "0", "0x0x" + SECRET[4:], "0" * 64, f"{ORDER:064x}", "g" * 64, "a key")


@pytest.mark.parametrize("text", NO_KEYS)
def test_what_is_no_key_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        AccountKey.parse(text)
    shown = "".join(traceback.format_exception(caught.value))
    assert text not in shown


def test_no_text_shows_the_key(caplog: pytest.LogCaptureFixture) -> None:
    key = AccountKey.parse(SECRET)
    logging.getLogger("nodekit.chain").error("%s %r", key, [key])
    texts = [repr(key), str(key), f"{key}", repr({"key": key}), caplog.text]
    assert all(ADDRESS in text for text in texts)
    for form in (SECRET, str(int(SECRET, 16)), repr(bytes.fromhex(SECRET))):
        assert not any(form in text for text in texts)


WRITERS = (pickle.dumps, copy.deepcopy, copy.copy, json.dumps, msgspec.json.encode, msgspec.to_builtins)


@pytest.mark.parametrize("write", WRITERS)
def test_a_key_is_not_written_anywhere(write: object) -> None:
    assert callable(write)
    with pytest.raises(TypeError) as caught:
        write(AccountKey.parse(SECRET))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert not hasattr(AccountKey.parse(SECRET), "__dict__")


@settings(deadline=None, max_examples=30)
@given(some.binary(min_size=32, max_size=32), some.integers(1, ORDER - 1))
def test_signatures_are_those_of_an_independent_library(digest: bytes, number: int) -> None:
    key = AccountKey(number.to_bytes(32))
    made = key.sign(digest)
    theirs = Account.unsafe_sign_hash(digest, number.to_bytes(32))
    assert (made.parity + 27, made.r, made.s) == (theirs.v, theirs.r, theirs.s)
    assert recovered(digest, Signature(made.parity + 27, made.r, made.s)) == key.address


def test_nothing_is_no_key() -> None:
    with pytest.raises(InvalidKey, match="expected 64 hexadecimal digits"):
        AccountKey.parse("")


# -- keystore files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_a_keystore_file_of_another_program_is_opened(kdf: str) -> None:
    text = json.dumps(Account.encrypt(SECRET, "påssword", kdf=kdf, iterations=2 if kdf == "pbkdf2" else 4))
    assert opened(text, "påssword").address == ADDRESS
    with pytest.raises(InvalidKey, match="the password does not open"):
        opened(text, "password")


def test_the_keystore_file_of_the_specification_is_opened() -> None:
    given = {
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262144,
                "dklen": 32,
                "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3,
    }
    address = "0x008aeeda4d805471df9b2a5b0f38a0c3bcba786b"
    assert opened(json.dumps(given), "testpassword").address == address
    assert opened(json.dumps(given | {"address": address[2:].upper()}), "testpassword").address == address
    with pytest.raises(InvalidKey, match=f"damaged: its key is of {address}, not of"):
        opened(json.dumps(given | {"address": ADDRESS}), "testpassword")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"crypto": {}},
        {"kdfparams": {"n": 2**30, "r": 8, "p": 1, "dklen": 32, "salt": "00"}},
        {"kdfparams": {"n": 3, "r": 8, "p": 1, "dklen": 32, "salt": "00"}},
        {"kdfparams": {"n": -2, "r": 8, "p": 1, "dklen": 32, "salt": "00"}},
        {"kdfparams": {"n": 2, "r": 8, "p": 1, "dklen": 8, "salt": "00"}},
        {"kdfparams": {"n": 2, "r": 8, "p": 1, "dklen": 32, "salt": "zz"}},
        {"ciphertext": "zz"},
        {"cipher": "aes-256-cbc"},
        {"cipherparams": {"iv": "00" * 17}},
    ],
)
def test_another_file_is_refused(change: dict[str, object]) -> None:
    made = Account.encrypt(SECRET, "password", kdf="scrypt", iterations=2)
    place = made if {"version", "crypto"} & set(change) else made["crypto"]
    place.update(change)
    with pytest.raises(InvalidKey, match="no keystore file of version 3"):
        opened(json.dumps(made), "password")


@pytest.mark.parametrize("text", ["", "{}", "[]", SECRET, "\x00", '{"version": 3}'])
def test_text_that_is_no_keystore_file_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidKey, match="no keystore file of version 3") as caught:
        opened(text, "password")
    assert SECRET not in str(caught.value)
