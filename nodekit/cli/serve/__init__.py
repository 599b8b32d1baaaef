"""`nodekit serve`: run a node until it is stopped."""
