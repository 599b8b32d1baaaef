"""The document of a node, and its routes."""

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
    """The document of a node whose limits are the default ones."""
    return json.loads(document(Limits(), KEYS))
