"""The plugin's table in a node file: its secrets are references, and what is wrong is named with its key."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from eth_account import Account

from nodekit import CompositionError, NodekitError, Secret, load_node
from nodekit_chain import Chain, ChainConfig, WalletConfig

KEY = "0x" + "5ec4e7" * 10 + "beef"
ADDRESS = Account.from_key(KEY).address.lower()
REGISTRY = "0x" + "ab" * 20
PLACE = "https://rpc.example/v2/a-key-of-the-endpoint"


def written(folder: Path, wallet: str = 'private_key = "${CHAIN_KEY}"', plugin: str = "", rules: str = "") -> Path:
    if "rpc_url" not in plugin:
        plugin += '\nrpc_url = ["http://127.0.0.1:1", "${RPC}"]'
    if "registry_address" not in plugin:
        plugin += f'\nregistry_address = "{REGISTRY}"'
    file = folder / "node.toml"
    file.write_text(
        f"""
[store]
use = "memory"
[[runners]]
use = "remote"
[[runners.containers]]
id = "a"
url = "http://127.0.0.1:1"
{rules}
[[plugins]]
use = "chain"
{plugin}
[plugins.wallet]
{wallet}
"""
    )
    return file


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAIN_KEY", KEY)
    monkeypatch.setenv("RPC", PLACE)


def problems(file: Path) -> str:
    with pytest.raises(CompositionError) as raised:
        load_node(file)
    text = "\n".join(map(str, raised.value.problems))
    assert KEY[2:] not in text
    assert "a-key-of-the-endpoint" not in text
    return text


def test_a_table_with_references_makes_a_node_that_knows_its_account(tmp_path: Path) -> None:
    assert load_node(written(tmp_path)).chain_address == ADDRESS


def test_no_repr_shows_a_secret() -> None:
    wallet = WalletConfig(private_key=Secret(KEY))
    config = ChainConfig(rpc_url=(Secret(PLACE),), registry_address=REGISTRY, wallet=wallet)
    chain = Chain(config)
    assert config.urls == (PLACE,)
    for shown in (repr(config), repr(chain), repr(vars(chain))):
        assert KEY[2:] not in shown
        assert "a-key-of-the-endpoint" not in shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"wallet": ""}, "wallet: the account that sends results needs a key"),
        (
            {"wallet": 'private_key = "${CHAIN_KEY}"\nkeystore = "x"\nkeystore_password = "${RPC}"'},
            "needs a key; give one",
        ),
        ({"wallet": 'keystore = "x"'}, "wallet.keystore_password: a keystore needs its password"),
        ({"wallet": 'private_key = "${RPC}"'}, "wallet.private_key: this is no private key"),
        ({"wallet": f'private_key = "{KEY}"'}, "a secret is given by reference"),
        (
            {"wallet": 'private_key = "${CHAIN_KEY}"\npayment_address = "0x12"'},
            "wallet.payment_address: '0x12' is not an",
        ),
        ({"plugin": "rpc_url = []"}, "rpc_url: is empty; name an endpoint"),
        ({"plugin": 'rpc_url = ["ws://a-key-of-the-endpoint"]'}, "rpc_url[0]: is no address of an endpoint"),
        ({"plugin": 'registry_address = "0xabc"'}, "registry_address: '0xabc' is not an address"),
        ({"plugin": "trail_blocks = 1"}, "trail_blocks: unknown key; did you mean 'trail_head_blocks'?"),
        ({"plugin": 'pipelines = [["a,b"], []]'}, "pipelines[0]: expected the ids of containers"),
        ({"rules": 'allowed_addresses = ["0x12"]'}, "allowed_addresses: '0x12' is not an address"),
        ({"rules": f'accepted_payments = {{ "{REGISTRY}" = -1 }}'}, "is no amount"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_its_key(tmp_path: Path, given: dict[str, Any], expected: str) -> None:
    assert expected in problems(written(tmp_path, **given))


def keystore(folder: Path, password: str) -> None:
    made = Account.encrypt(KEY, password, kdf="pbkdf2", iterations=1000)
    (folder / "account.json").write_text(json.dumps(made))


STORED = 'keystore = "account.json"\nkeystore_password = { file = "password" }'


@pytest.mark.anyio
async def test_a_keystore_is_opened_when_the_node_starts(tmp_path: Path) -> None:
    keystore(tmp_path, "correct horse")
    (tmp_path / "password").write_text("correct horse\n")
    node = load_node(written(tmp_path, wallet=STORED))
    assert node.chain_address == ""
    async with node:
        assert node.chain_address == ADDRESS


@pytest.mark.anyio
@pytest.mark.parametrize("cause", ["password", "missing"])
async def test_a_keystore_that_cannot_be_opened_keeps_the_node_from_starting(tmp_path: Path, cause: str) -> None:
    if cause == "password":
        keystore(tmp_path, "correct horse")
    (tmp_path / "password").write_text("battery staple")
    with anyio.fail_after(60), pytest.raises(NodekitError, match=r"the keystore .*account\.json") as raised:
        async with load_node(written(tmp_path, wallet=STORED)):
            raise AssertionError("it has started")
    assert "battery staple" not in str(raised.value)
