"""Random sequences of operations on a store, compared with a model in plain Python. Needs hypothesis."""

from nodekit.testing.store_model.contract import JobStoreModelContract

__all__ = ["JobStoreModelContract"]
