"""Commands on the store of a node file: `nodekit prune` and `nodekit store`."""
