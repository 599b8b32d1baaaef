"""Listening sockets, connection limits, and the two servers: hypercorn and uvicorn."""
