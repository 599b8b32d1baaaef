"""The node's account: its key, and the transactions that it sends."""
