"""A small shared store: an engine that keeps jobs in memory, and stores as its clients, one for each node."""
