"""The plugin `metrics`: the activity and state of a node, for Prometheus to collect at ``/-/metrics/``."""

from nodekit import Offer
from nodekit_metrics._config import MetricsConfig
from nodekit_metrics._plugin import Metrics

__all__ = ["Metrics", "MetricsConfig", "offer"]

offer = Offer(MetricsConfig, lambda config, file: Metrics(config))
