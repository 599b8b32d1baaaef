"""Subscriptions from a blockchain: their containers run, and results are delivered by transaction."""
