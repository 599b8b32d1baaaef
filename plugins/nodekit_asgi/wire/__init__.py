"""The JSON of the API, and its translation from and to the node's own types."""
