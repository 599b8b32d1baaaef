"""Delegated subscriptions: signed requests that clients send over HTTP, checked before the reply."""
