"""The plugin's settings."""

from itertools import pairwise
from typing import Annotated, TypeAlias

import msgspec

Buckets: TypeAlias = tuple[Annotated[float, msgspec.Meta(gt=0)], ...]


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the plugin in a node file. Buckets are upper bounds, ascending; one without a bound is added."""

    public: bool = True
    """Whether everybody may read the metrics who reaches the node; otherwise only who is on its machine."""
    process: bool = True
    """Whether CPU, memory and descriptors of the process, the Python and its garbage collection are told as well."""
    step_buckets_seconds: Buckets = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)
    """Of the durations of steps, and of whole jobs."""
    queue_buckets_seconds: Buckets = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)
    """Of the times for which jobs waited."""
    store_buckets_seconds: Buckets = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
    """Of the durations of the store's calls."""
    lag_buckets_seconds: Buckets = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
    """Of how late the event loop is."""
    lag_interval_seconds: Annotated[float, msgspec.Meta(ge=0.01, le=3600)] = 0.5
    """How often it is looked how late it is."""
    max_reasons: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 30
    """How many reasons of refusals are told apart; further ones are counted together, as ``other``."""

    def __post_init__(self) -> None:
        for name in ("step", "queue", "store", "lag"):
            bounds: Buckets = getattr(self, f"{name}_buckets_seconds")
            if not bounds or any(low >= high for low, high in pairwise(bounds)):
                raise ValueError(f"{name}_buckets_seconds: expected one bound or more, in ascending order")
