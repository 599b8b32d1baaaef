"""`nodekit chain`: what a node that runs knows of its chain."""

from nodekit_chain.cli.command import chain

__all__ = ["chain"]
