"""`nodekit keys`: make, show and end the keys of a node."""

from nodekit_apikeys.cli.commands import keys

__all__ = ["keys"]
