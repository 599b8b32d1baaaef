"""The access to a Docker engine: finding it, calling it in threads, watching it."""
