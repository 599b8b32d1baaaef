"""The node: components wired together, and what its clients can ask of it."""
