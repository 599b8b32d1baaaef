"""A Docker engine: found, called in threads, watched."""
