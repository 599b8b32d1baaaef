"""The JSON of the API: what goes over the wire, and what it is in the node."""
