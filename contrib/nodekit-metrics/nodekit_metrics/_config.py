"""The plugin's settings."""

from itertools import pairwise
from typing import Annotated, TypeAlias

import msgspec

Buckets: TypeAlias = tuple[Annotated[float, msgspec.Meta(gt=0)], ...]


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the plugin in a node file. Buckets are ascending upper bounds; one without a bound is added.

    - `public`: If true, everybody who reaches the node may read the metrics; if false, only callers on its machine.
    - `process`: True to include CPU, memory and descriptors of the process, the Python version and its garbage
      collection.
    - `step_buckets_seconds`: Buckets for the durations of steps and of whole jobs.
    - `queue_buckets_seconds`: Buckets for the times for which jobs waited.
    - `store_buckets_seconds`: Buckets for the durations of the store's calls.
    - `lag_buckets_seconds`: Buckets for the lag of the event loop.
    - `lag_interval_seconds`: Interval of measurements of the lag.
    - `max_reasons`: Maximum number of refusal reasons with their own count; further ones are counted together, as
      ``other``.
    - `max_clients`: Maximum number of clients with their own count, by the names of their keys; further ones, and
      clients known by their address, are counted together, as ``other``.
    """

    public: bool = True
    process: bool = True
    step_buckets_seconds: Buckets = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)
    queue_buckets_seconds: Buckets = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)
    store_buckets_seconds: Buckets = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
    lag_buckets_seconds: Buckets = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
    lag_interval_seconds: Annotated[float, msgspec.Meta(ge=0.01, le=3600)] = 0.5
    max_reasons: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 30
    max_clients: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0

    def __post_init__(self) -> None:
        for name in ("step", "queue", "store", "lag"):
            bounds: Buckets = getattr(self, f"{name}_buckets_seconds")
            if not bounds or any(low >= high for low, high in pairwise(bounds)):
                raise ValueError(f"{name}_buckets_seconds: expected one bound or more, in ascending order")
