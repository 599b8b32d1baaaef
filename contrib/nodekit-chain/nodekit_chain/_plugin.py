"""The plugin `chain`."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread

from nodekit import (
    CompositionError,
    Identity,
    Mount,
    Node,
    NodekitError,
    Problem,
    Provider,
    SubscriptionRequest,
    Unavailable,
)
from nodekit_chain._discovery import Discovered, discover
from nodekit_chain._page import Page
from nodekit_chain._served import Served
from nodekit_chain._settings import ChainConfig, WalletConfig, check
from nodekit_chain.account.fees import GWEI, FeeCaps
from nodekit_chain.account.key import AccountKey, InvalidKey
from nodekit_chain.account.keystore import opened
from nodekit_chain.account.sender import AccountSender
from nodekit_chain.delegated.acceptance import RETRY_SECONDS, Acceptance
from nodekit_chain.payments.container_rules import ChainRules
from nodekit_chain.payments.escrow import Escrow
from nodekit_chain.payments.policy import PaymentPolicy
from nodekit_chain.protocol.address import ZERO_ADDRESS
from nodekit_chain.protocol.delegated import Domain
from nodekit_chain.rpc.endpoints import Endpoints, EndpointSettings
from nodekit_chain.watching.pipelines import PipelineTable
from nodekit_chain.watching.watcher import WatchSettings
from nodekit_chain.work.engine import LONGEST_PAUSE_SECONDS, Engine
from nodekit_chain.work.settings import WorkSettings

logger = logging.getLogger("nodekit.chain")

MOST_KEYSTORE_BYTES = 1 << 16


class Chain:
    """Serves the subscriptions of a coordinator on a chain.

    The registry is asked once the node runs. Until it answers, and whenever no endpoint does, the node goes on with
    other jobs, and `/health` has the reason.
    """

    storage_namespace = "chain"
    container_rules = ChainRules

    def __init__(self, config: ChainConfig) -> None:
        """Raise `CompositionError` for settings that no node can work with."""
        check(config)
        self._config = config
        self._key = _key(config.wallet)
        self._endpoints: Endpoints | None = None
        self._served: Served | None = None
        self._trouble = ""

    @property
    def chain_address(self) -> str:
        """Address of the account that sends results; empty until a keystore is open."""
        return "" if self._key is None else self._key.address

    # -- hooks ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def nodekit_lifespan(self, node: Node) -> AsyncIterator[None]:
        if self._key is None:
            self._key = await anyio.to_thread.run_sync(_open_keystore, self._config.wallet)
        yield

    async def nodekit_run(self, node: Node) -> None:
        settings = EndpointSettings(chain_id=self._config.chain_id, call_seconds=self._config.call_seconds)
        async with Endpoints(self._config.urls, settings, node.random.random) as endpoints:
            self._endpoints = endpoints
            try:
                discovered = await self._discovered(node, endpoints)
                self._served = self._serving(node, endpoints, discovered)
                logger.info("the coordinator %s is served as %s", discovered.coordinator, self.chain_address)
                await self._served.engine.run()
            finally:
                self._endpoints = self._served = None

    async def nodekit_subscription(self, request: SubscriptionRequest, identity: Identity) -> bool:
        if self._served is None:
            raise Unavailable("the chain does not answer", retry_after_seconds=RETRY_SECONDS)
        await self._served.acceptance.accept(request, identity)
        return True

    def nodekit_problems(self) -> Sequence[str]:
        found = [] if self._endpoints is None else list(self._endpoints.problems)
        if self._trouble:
            found.append(f"the chain cannot be served: {self._trouble}")
        if self._served is not None:
            found += self._served.engine.problems()
        return found

    def nodekit_routes(self, node: Node) -> Sequence[Mount]:
        return [Mount("chain", Page(node.storage(self.storage_namespace), self._config, lambda: self._parts))]

    # -- parts ------------------------------------------------------------------------------------

    @property
    def _parts(self) -> tuple[Endpoints | None, Served | None, str]:
        return self._endpoints, self._served, self.chain_address

    async def _discovered(self, node: Node, endpoints: Endpoints) -> Discovered:
        """Ask the registry until it answers."""
        pause = self._config.snapshot_sync.sync_period
        while True:
            try:
                found = await discover(endpoints, self._config.registry)
            except NodekitError as error:
                if str(error) != self._trouble:
                    logger.warning("the chain cannot be served: %s", error)
                self._trouble = str(error)
            else:
                self._trouble = ""
                return found
            await anyio.sleep(pause * node.random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _serving(self, node: Node, rpc: Endpoints, found: Discovered) -> Served:
        assert self._key is not None
        assert rpc.chain_id is not None
        config, storage, wallet = self._config, node.storage(self.storage_namespace), self._config.wallet
        caps = FeeCaps(
            max_fee=round(wallet.max_fee_gwei * GWEI), max_priority_fee=round(wallet.max_priority_fee_gwei * GWEI)
        )
        sender = AccountSender(storage, rpc, self._key, rpc.chain_id, caps)
        escrow = None
        if config.paid_to is not None:
            wallets = {"wallet": config.paid_to, "factory": found.factory}
            escrow = Escrow(storage, rpc, sender, **wallets, max_gas_limit=wallet.max_gas_limit)
        policy = PaymentPolicy(node, rpc, factory=found.factory, fee=found.fee, paid_to=config.paid_to, escrow=escrow)
        engine = Engine(
            node,
            storage,
            rpc=rpc,
            sender=sender,
            rules=policy,
            coordinator=found.coordinator,
            reader=found.reader,
            pipelines=PipelineTable(config.pipelines),
            watch=_watch(config),
            work=_work(config),
        )
        acceptance = Acceptance(
            node,
            rpc,
            engine,
            policy,
            PipelineTable(config.pipelines),
            Domain(rpc.chain_id, found.coordinator),
            margin_seconds=config.expiry_margin_seconds,
        )
        return Served(found, rpc.chain_id, engine, acceptance)


def _watch(config: ChainConfig) -> WatchSettings:
    sync = config.snapshot_sync
    return WatchSettings(
        trail_head_blocks=config.trail_head_blocks,
        starting_sub_id=sync.starting_sub_id,
        batch_size=sync.batch_size,
        sleep_seconds=sync.sleep,
    )


def _work(config: ChainConfig) -> WorkSettings:
    return WorkSettings(
        payment_address=config.paid_to or ZERO_ADDRESS,
        max_gas_limit=config.wallet.max_gas_limit,
        allowed_sim_errors=config.wallet.allowed_sim_errors,
        confirmations=config.confirmations,
        attempts=config.attempts,
        retry_seconds=config.retry_seconds,
        bump_after_blocks=config.bump_after_blocks,
        lease_seconds=config.lease_seconds,
        keep_days=config.keep_days,
        poll_seconds=config.snapshot_sync.sync_period,
        json_output=config.plain_output == "json",
    )


def _key(wallet: WalletConfig) -> AccountKey | None:
    """Return the key of the settings. None: it is in a keystore. Raise `CompositionError`, which does not show it."""
    if wallet.private_key is None:
        return None
    try:
        return AccountKey.parse(wallet.private_key.reveal())
    except InvalidKey as error:
        raise CompositionError(Problem("wallet.private_key", str(error))) from None


def _open_keystore(wallet: WalletConfig) -> AccountKey:
    """Open the keystore of the settings. Raise `NodekitError` that names the file, and shows nothing of it."""
    assert wallet.keystore is not None
    assert wallet.keystore_password is not None
    try:
        with wallet.keystore.open("rb") as file:
            text = file.read(MOST_KEYSTORE_BYTES)
        return opened(text, wallet.keystore_password.reveal())
    except OSError as error:
        cure = "correct wallet.keystore, or who may read the file"
        raise NodekitError(f"the keystore {wallet.keystore} cannot be read: {error.strerror}; {cure}") from None
    except InvalidKey as error:
        raise NodekitError(f"the keystore {wallet.keystore}: {error}") from None


provider = Provider(ChainConfig, lambda config, file: Chain(config), container=ChainRules)
