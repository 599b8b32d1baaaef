"""Listening sockets, limits of connections, and the two servers: hypercorn and uvicorn."""
