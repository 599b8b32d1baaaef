"""The settings of the plugin: the keys are those of `chain` in an Infernet node's config.json, and more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from nodekit import CompositionError, EnvValue, Problem, Secret
from nodekit_chain.protocol.address import Address, InvalidAddress, parse_address
from nodekit_chain.rpc.endpoint import endpoint_name

Whole = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Gwei = Annotated[float, msgspec.Meta(ge=0)]


class WalletConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The account that sends results, and what it may spend.

    - `private_key`: Its key: 64 hexadecimal digits. Given by reference.
    - `keystore`: A file with the encrypted key, instead of `private_key`.
    - `keystore_password`: Password of that file. Given by reference.
    - `payment_address`: Wallet contract that is paid. Without one, only what is free is served.
    - `max_gas_limit`: Most gas of a transaction.
    - `max_fee_gwei`: Most that a unit of gas may cost. While the chain asks for more, nothing is sent.
    - `max_priority_fee_gwei`: Most of it that goes to who makes the block.
    - `allowed_sim_errors`: Parts of error texts. A delivery whose simulation fails with one is sent all the same.
    """

    private_key: Secret | None = None
    keystore: Path | None = None
    keystore_password: Secret | None = None
    payment_address: str | None = None
    max_gas_limit: Positive = 5_000_000
    max_fee_gwei: Gwei = 500.0
    max_priority_fee_gwei: Gwei = 50.0
    allowed_sim_errors: tuple[str, ...] = ()


class SyncConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The reading of subscriptions.

    - `sleep`: Seconds between two requests for many subscriptions.
    - `batch_size`: Number of subscriptions that one request reads.
    - `starting_sub_id`: Subscriptions up to this id are not served.
    - `sync_period`: Seconds between two looks at the newest block.
    """

    sleep: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    starting_sub_id: Whole = 0
    sync_period: Seconds = 0.5


class ChainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chain, a coordinator on it, and how the node serves its subscriptions.

    - `rpc_url`: Addresses of JSON-RPC endpoints, in order of preference. One with a key in it is given by reference.
    - `registry_address`: Contract that names the coordinator and the others.
    - `chain_id`: Number of the chain. None: the one that the first endpoint names.
    - `trail_head_blocks`: Number of blocks by which the watch stays behind the newest one.
    - `confirmations`: Number of blocks, its own included, after which a transaction counts for good.
    - `pipelines`: Sequences of containers that subscriptions may ask for. Each container alone, and short sequences,
      need no name here.
    - `expiry_margin_seconds`: Time for which the signature of a delegated subscription has to be valid when it comes.
    - `attempts`: Jobs and transactions that may fail for one result.
    - `retry_seconds`: Pause after the first failure; it doubles with each further one.
    - `bump_after_blocks`: Number of blocks after which a transaction that waits is replaced, with higher fees.
    - `lease_seconds`: Time after which another node of a cluster takes over from one that died.
    - `keep_days`: Days for which records of finished work are kept.
    - `call_seconds`: Time limit of a request to an endpoint.
    - `plain_output`: Form of an output without the five keys: ``python``, as other nodes deliver it, or ``json``.
    """

    rpc_url: tuple[EnvValue, ...]
    registry_address: str
    wallet: WalletConfig = WalletConfig()
    snapshot_sync: SyncConfig = SyncConfig()
    chain_id: Positive | None = None
    trail_head_blocks: Whole = 1
    confirmations: Positive = 3
    pipelines: tuple[tuple[str, ...], ...] = ()
    expiry_margin_seconds: Whole = 30
    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3
    retry_seconds: Seconds = 5.0
    bump_after_blocks: Positive = 3
    lease_seconds: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 15.0
    keep_days: Annotated[float, msgspec.Meta(ge=0)] = 7.0
    call_seconds: Seconds = 10.0
    plain_output: Literal["python", "json"] = "python"

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of the endpoints. They may hold keys: they are for requests, not for messages."""
        return tuple(url if isinstance(url, str) else url.reveal() for url in self.rpc_url)

    @property
    def registry(self) -> Address:
        return parse_address(self.registry_address)

    @property
    def paid_to(self) -> Address | None:
        """The wallet that is paid, or None."""
        return None if self.wallet.payment_address is None else parse_address(self.wallet.payment_address)


def check(config: ChainConfig) -> None:
    """Raise `CompositionError` for settings that no node can work with. Nothing secret is in the message."""
    if problems := list(_problems(config)):
        raise CompositionError(problems)


def _problems(config: ChainConfig) -> Iterator[Problem]:
    if not config.rpc_url:
        yield Problem("rpc_url", "is empty; name an endpoint of the chain, such as http://127.0.0.1:8545")
    for number, url in enumerate(config.urls):
        try:
            endpoint_name(url)
        except ValueError:
            yield Problem(f"rpc_url[{number}]", "is no address of an endpoint; expected http://… or https://…")
    wallet = config.wallet
    addresses = {"registry_address": config.registry_address, "wallet.payment_address": wallet.payment_address}
    for key, text in addresses.items():
        try:
            if text is not None:
                parse_address(text)
        except InvalidAddress as error:
            yield Problem(key, str(error))
    if (wallet.private_key is None) == (wallet.keystore is None):
        cure = 'give one: private_key = { env = "CHAIN_PRIVATE_KEY" }, or keystore and keystore_password'
        yield Problem("wallet", f"the account that sends results needs a key; {cure}")
    if (wallet.keystore is None) != (wallet.keystore_password is None):
        yield Problem("wallet.keystore_password", "a keystore needs its password, and a password its keystore")
    for number, pipeline in enumerate(config.pipelines):
        if not pipeline or any("," in container for container in pipeline):
            yield Problem(f"pipelines[{number}]", "expected the ids of containers, none of which has a comma")
