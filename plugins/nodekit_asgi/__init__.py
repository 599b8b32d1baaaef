"""The transport `asgi`: nodekit's HTTP API, served by hypercorn or uvicorn, or an ASGI app that you mount elsewhere."""

from nodekit_asgi.app import AsgiApp
from nodekit_asgi.config import AsgiConfig, Limits
from nodekit_asgi.transport import AsgiTransport, provider

__all__ = ["AsgiApp", "AsgiConfig", "AsgiTransport", "Limits", "provider"]
