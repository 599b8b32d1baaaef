"""Stores on a database, and a job that two of them run."""

import os
from typing import Any, NoReturn

import anyio
import pytest

from nodekit import Secret
from nodekit.testing import SEQUENCE, make_job, succeeded
from nodekit_postgres import PostgresConfig, PostgresStore

SOON = 30.0


def make_store(url: str, **settings: Any) -> PostgresStore:
    return PostgresStore(PostgresConfig(url=Secret(url), **{"lease_seconds": 5.0, **settings}))


async def run_a_job(one: PostgresStore, other: PostgresStore) -> None:
    """Run a job that one store adds and another one claims."""
    await one.add([make_job()])
    with anyio.fail_after(SOON):
        [claim] = await other.claim(["echo"], SEQUENCE, 1)
        await other.save(claim, succeeded(claim.job))
    assert await one.get([claim.job.id]) == [claim.job]


def unavailable(reason: object) -> NoReturn:
    """Skip a test that lacks something of the machine; with CI=true, fail it."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI=true, so this is no reason to skip: {reason}", pytrace=False)
    pytest.skip(str(reason))
