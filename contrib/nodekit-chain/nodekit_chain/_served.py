"""The parts of the plugin that exist once the chain has answered."""

from typing import NamedTuple

from nodekit_chain._discovery import Discovered
from nodekit_chain.delegated.acceptance import Acceptance
from nodekit_chain.work.engine import Engine


class Served(NamedTuple):
    """The parts that work while the chain is known."""

    discovered: Discovered
    chain_id: int
    engine: Engine
    acceptance: Acceptance
