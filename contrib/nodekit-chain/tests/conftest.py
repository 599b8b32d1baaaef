"""Fixtures that start a real chain. Without npm their tests are skipped; with CI=true they fail."""

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import NoReturn

import pytest
from chain_programs import NoChain
from local_chain import Contracts, LocalChain

from nodekit.testing import VirtualClock

USUAL = sys.getrecursionlimit()
import_module("eth_account")  # a package below it raises the limit for the whole process, so that deep JSON is a crash
sys.setrecursionlimit(USUAL)


@pytest.fixture
def anyio_backend() -> str:
    """Use asyncio, which nodes run on."""
    return "asyncio"


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """Time that a test moves."""
    with VirtualClock() as clock:
        yield clock


def unavailable(reason: object) -> NoReturn:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI=true, so this is no reason to skip: {reason}", pytrace=False)
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def shared_contracts() -> Iterator[Contracts]:
    """A chain with the contracts, for all tests of this process."""
    chain = LocalChain()
    try:
        chain.__enter__()
        contracts = Contracts(chain)
    except NoChain as reason:
        unavailable(reason)
    try:
        yield contracts
    finally:
        chain.__exit__()


@pytest.fixture
def contracts(shared_contracts: Contracts) -> Iterator[Contracts]:
    """The contracts, as if no test had used them before."""
    with shared_contracts.chain.undone():
        yield shared_contracts


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A server of nodekit-redis, which is tested beside this package."""
    try:
        from redis_server import NoRedis, RedisServer
    except ImportError as reason:
        unavailable(reason)
    try:
        with RedisServer() as server:
            yield server.url
    except NoRedis as reason:
        unavailable(reason)


@pytest.fixture
def chain(contracts: Contracts) -> LocalChain:
    """The chain that `contracts` are on."""
    return contracts.chain
