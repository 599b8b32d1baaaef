"""The pipelines that a node can run, by the hash that is all a subscription says of its containers."""

from collections.abc import Collection, Iterator, Sequence
from itertools import permutations

from nodekit_chain.protocol.subscription import containers_hash

MOST_PIPELINES = 10_000
"""Number of pipelines up to which those that nobody declared are computed: a tenth of a second."""
LONGEST = 3
"""Length up to which they are."""


class PipelineTable:
    """Containers by hash: each alone, the declared pipelines, and short sequences if they are not too many."""

    def __init__(self, declared: Sequence[Sequence[str]] = ()) -> None:
        self._declared = tuple(map(tuple, declared))
        self._known: frozenset[str] | None = None
        self._by_hash: dict[bytes, tuple[str, ...]] = {}

    def update(self, containers: Collection[str]) -> bool:
        """Follow the containers that a node has. Return True if the table has changed."""
        known = frozenset(containers)
        if known == self._known:
            return False
        self._known = known
        self._by_hash = {containers_hash(pipeline): pipeline for pipeline in _pipelines(known, self._declared)}
        return True

    def containers(self, hash: bytes) -> tuple[str, ...] | None:
        """Return the containers that a hash stands for; None if it is of none that the node has."""
        return self._by_hash.get(hash)


def _pipelines(known: frozenset[str], declared: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    yield from (pipeline for pipeline in declared if known.issuperset(pipeline))
    left, number = MOST_PIPELINES, 1
    for length in range(1, LONGEST + 1):
        number *= len(known) - length + 1
        left -= number
        if length > 1 and left < 0:
            return
        yield from permutations(sorted(known), length)
