"""The plugin `chain`: serves the subscriptions of a coordinator contract on a blockchain."""

from nodekit import Provider
from nodekit_chain._plugin import Chain
from nodekit_chain._settings import ChainConfig, SyncConfig, WalletConfig
from nodekit_chain.payments.container_rules import ChainRules

__all__ = ["Chain", "ChainConfig", "ChainRules", "SyncConfig", "WalletConfig", "provider"]

provider = Provider(ChainConfig, lambda config, file: Chain(config), container=ChainRules)
