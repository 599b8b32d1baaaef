"""The watch over a chain: its blocks, and the subscriptions that are in them."""
