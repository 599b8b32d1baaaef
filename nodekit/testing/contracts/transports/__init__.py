"""What brings requests to a node, and the HTTP API over real sockets."""
