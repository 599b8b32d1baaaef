"""Keystore files (version 3), as wallets write them: a private key, encrypted with a password."""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from Crypto.Cipher import AES

from nodekit_chain.account.key import AccountKey, InvalidKey
from nodekit_chain.protocol.keccak import keccak256

MOST_MEMORY = 1 << 30
"""Bytes that deriving the key may take. Files of wallets take up to 256 MiB."""

Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Scrypt(msgspec.Struct):
    n: Positive
    r: Positive
    p: Annotated[int, msgspec.Meta(ge=1, le=64)]
    dklen: Annotated[int, msgspec.Meta(ge=32, le=64)]
    salt: str


class _Pbkdf2(msgspec.Struct):
    c: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
    dklen: Annotated[int, msgspec.Meta(ge=32, le=64)]
    prf: Literal["hmac-sha256"]
    salt: str


class _CipherParameters(msgspec.Struct):
    iv: str


class _Crypto(msgspec.Struct):
    cipher: Literal["aes-128-ctr"]
    ciphertext: str
    cipherparams: _CipherParameters
    kdf: Literal["scrypt", "pbkdf2"]
    kdfparams: dict[str, Any]
    mac: str


class _Keystore(msgspec.Struct):
    version: Literal[3]
    crypto: _Crypto
    address: str = ""


def opened(text: bytes | str, password: str) -> AccountKey:
    """Return the key of a keystore file. Raise `InvalidKey` for another file or a wrong password.

    It takes about a second and, with most files, 256 MiB of memory: call it in a thread.
    """
    try:
        file = msgspec.json.decode(text, type=_Keystore)
        crypto = file.crypto
        derived = _derived(crypto, password.encode())
        encrypted, mac, iv = map(bytes.fromhex, (crypto.ciphertext, crypto.mac, crypto.cipherparams.iv))
        if len(iv) != AES.block_size:
            raise ValueError("its iv has not 16 bytes")
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise InvalidKey(f"this is no keystore file of version 3 ({error})") from None
    if keccak256(derived[16:32] + encrypted) != mac:
        raise InvalidKey("the password does not open the keystore file")
    key = AccountKey(_decrypted(derived[:16], iv, encrypted))
    if file.address and key.address != f"0x{file.address.lower().removeprefix('0x')}":
        raise InvalidKey(f"the keystore file is damaged: its key is of {key.address}, not of {file.address[:42]!r}")
    return key


def _decrypted(key: bytes, iv: bytes, encrypted: bytes) -> bytes:
    cipher = AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=iv)  # pyright: ignore[reportUnknownMemberType]
    return cipher.decrypt(encrypted)


def _derived(crypto: _Crypto, password: bytes) -> bytes:
    if crypto.kdf == "pbkdf2":
        given = msgspec.convert(crypto.kdfparams, _Pbkdf2)
        return hashlib.pbkdf2_hmac("sha256", password, bytes.fromhex(given.salt), given.c, given.dklen)
    asked = msgspec.convert(crypto.kdfparams, _Scrypt)
    needed = 128 * asked.r * (asked.n + asked.p + 2)
    if needed > MOST_MEMORY:
        raise ValueError(f"it takes {needed} bytes of memory to open")
    salt = bytes.fromhex(asked.salt)
    return hashlib.scrypt(password, salt=salt, n=asked.n, r=asked.r, p=asked.p, maxmem=needed, dklen=asked.dklen)
