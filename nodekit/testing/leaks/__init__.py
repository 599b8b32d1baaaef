"""Detectors of leaks and of a blocked event loop."""
