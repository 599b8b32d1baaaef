"""Suites of components that bring requests to a node, and of the HTTP API over real sockets."""
