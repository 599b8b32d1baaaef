"""The HTTP layer between ASGI and the handlers: requests, replies, headers, origins and client addresses."""
