"""Extensions of ASGI that nodekit's servers offer, so that a request that needs no waiting does not wait.

Other servers need not have them: then the same is received as in ASGI.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

ARRIVED = "nodekit.arrived"
GONE = "nodekit.gone"

Arrived: TypeAlias = Callable[[], bytes | None]
"""Takes the whole body, in place of `receive`, if it has arrived, and returns it; otherwise it returns None.

Most bodies are there when their request begins: nothing has to wait for them, or be timed.
"""

OnGone: TypeAlias = Callable[[Callable[[], object] | None], None]
"""Sets the function to call once the client has gone: at once, if it has already. None: no function any more.

A task that receives until then costs more than the rest of a small request.
"""


def take_arrived(scope: dict[str, Any]) -> bytes | None:
    """Return the whole body of a request that has arrived already. Return None if it has still to be received."""
    arrived: Arrived | None = scope.get("extensions", {}).get(ARRIVED)
    return None if arrived is None else arrived()


def on_gone(scope: dict[str, Any]) -> OnGone | None:
    """Return the server's `OnGone`, or None if it offers none."""
    found: OnGone | None = scope.get("extensions", {}).get(GONE)
    return found


def without_ours(scope: dict[str, Any]) -> dict[str, Any]:
    """Return the extensions that an application of a plugin may use: with these, it would pass by the node's limits."""
    return {name: value for name, value in scope.get("extensions", {}).items() if name not in (ARRIVED, GONE)}
