"""Requests to the endpoints of a chain: JSON-RPC over HTTP, many questions in one request, several endpoints."""
