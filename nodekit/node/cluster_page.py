"""The page ``/-/cluster/`` of a node on a shared store: the state of the cluster as JSON."""

import logging
from typing import Any

import anyio
import msgspec

from nodekit.errors import StoreFailed
from nodekit.hooks.mounts import Mount
from nodekit.interfaces.component_calls import asked
from nodekit.interfaces.shared_store import SharedStore
from nodekit.node.cluster_report import cluster_report

logger = logging.getLogger("nodekit.node")

REPORT_SECONDS = 10.0


def cluster_page(store: SharedStore) -> Mount:
    """Return the page as a mount. It can be called from the node's own machine only."""

    async def page(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != f"{scope['root_path']}/":
            return await reply(send, 404, {"error": "no such page; /-/cluster/ is the only one"})
        if scope["method"] not in ("GET", "HEAD"):
            return await reply(send, 405, {"error": "this page can only be read"}, (b"allow", b"GET, HEAD"))
        try:
            with anyio.fail_after(REPORT_SECONDS):
                report = await asked(lambda: cluster_report(store))
        except (StoreFailed, TimeoutError) as error:
            logger.error("the state of the cluster cannot be read", exc_info=error)
            return await reply(send, 503, {"error": "the store cannot be read right now"}, (b"retry-after", b"5"))
        return await reply(send, 200, report)

    return Mount("cluster", page)


async def reply(send: Any, status: int, answer: Any, *headers: tuple[bytes, bytes]) -> None:
    body = msgspec.json.encode(answer)
    own = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})
