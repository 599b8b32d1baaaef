"""The proof that a container or network was made by this node.

Labels prove nothing: images carry labels, which their containers inherit, and anybody can copy those of a container.
"""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Literal, TypeAlias

from nodekit_docker.containers.state import CONTAINER, NODE, PROOF, STATE, Made

Kind: TypeAlias = Literal["container", "network"]

MAKING_SECONDS = 120.0
"""Maximum time from the making of a proof to that of its container. Copies of a container are made later."""


class Ownership:
    """The secret of a node, and the proofs that it makes and checks.

    A proof is a keyed digest over the node, the entry, the name, and the time at which it was made. The engine says
    when it made the container. So a container that was made later does not pass, although its labels are copied and
    it has taken the name of one that is gone.
    """

    def __init__(self, secret: bytes, node: str, path: Path) -> None:
        """`path` is the file of the secret."""
        self.node = node
        self._secret = secret
        self._path = path

    def labels(self, kind: Kind, entry: str, name: str, now: float) -> dict[str, str]:
        """Return the labels of a container or network that is made now, at this time of the engine."""
        at = f"{now:.0f}"
        return {PROOF: f"{at}:{self._digest(kind, entry, name, at)}", STATE: str(self._path)}

    def owns(self, kind: Kind, made: Made) -> bool:
        """Return True if this node made the container or network."""
        at, _, digest = made.labels.get(PROOF, "").partition(":")
        entry = made.labels.get(CONTAINER, "")
        if made.labels.get(NODE) != self.node or not hmac.compare_digest(
            digest.encode(errors="replace"), self._digest(kind, entry, made.name, at).encode()
        ):
            return False
        return abs(made.created_at - float(at)) <= MAKING_SECONDS  # a number, since it is ours

    def _digest(self, kind: Kind, entry: str, name: str, at: str) -> str:
        told = json.dumps([kind, self.node, entry, name, at])
        return hmac.new(self._secret, told.encode(), hashlib.sha256).hexdigest()
