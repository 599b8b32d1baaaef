"""Stores on servers of tests."""

import os
from typing import Any, NoReturn

import pytest
from redis_server import RedisServer

from nodekit import Secret
from nodekit_redis import RedisConfig, RedisStore

REPLICAS = int(os.environ.get("NODEKIT_TEST_REPLICAS", "0"))
"""Number of replicas of the server of all tests, which stores of the suites wait for."""


def store_on(server: RedisServer, **settings: Any) -> RedisStore:
    """Return a store on a server, not entered, with a short lease unless the settings have another."""
    settings = {"url": Secret(server.url), "lease_seconds": 2.0, "look_seconds": 1.0, **settings}
    return RedisStore(RedisConfig(**settings))


def secret(text: str) -> Secret:
    return Secret(text)


def unavailable(reason: object) -> NoReturn:
    """Skip a test that lacks something of the machine; with CI=true, fail it."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI=true, so this is no reason to skip: {reason}", pytrace=False)
    pytest.skip(str(reason))
