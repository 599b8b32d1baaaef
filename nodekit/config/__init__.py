"""The way from a node file to a node: formats, providers, distributions, secrets."""
