"""The plugin `metrics`: the activity and state of a node, for Prometheus to collect at ``/-/metrics/``."""

from nodekit import Provider
from nodekit_metrics._config import MetricsConfig
from nodekit_metrics._plugin import Metrics

__all__ = ["Metrics", "MetricsConfig", "provider"]

provider = Provider(MetricsConfig, lambda config, file: Metrics(config))
