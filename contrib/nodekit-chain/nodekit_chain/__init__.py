"""The plugin `chain`: serves the subscriptions of a coordinator contract on a blockchain.

Names are imported when they are used: `nodekit --help` has the commands of this package, and needs nothing else of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodekit_chain._plugin import Chain, provider
    from nodekit_chain._settings import ChainConfig, SyncConfig, WalletConfig
    from nodekit_chain.payments.container_rules import ChainRules

__all__ = ["Chain", "ChainConfig", "ChainRules", "SyncConfig", "WalletConfig", "provider"]

_MODULES = {
    "Chain": "_plugin",
    "ChainConfig": "_settings",
    "ChainRules": "payments.container_rules",
    "SyncConfig": "_settings",
    "WalletConfig": "_settings",
    "provider": "_plugin",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
