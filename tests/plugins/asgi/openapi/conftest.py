"""Fixtures of the OpenAPI document of a node."""

import json
from typing import Any

import pytest

from nodekit_asgi import Limits
from nodekit_asgi.api.routes import KEYS
from nodekit_asgi.openapi import document


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def openapi() -> Any:
    """Return the document of a node with default limits."""
    return json.loads(document(Limits(), KEYS))
