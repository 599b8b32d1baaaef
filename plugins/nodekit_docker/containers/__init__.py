"""Containers that are made, followed and kept up, and programs that run once for each step."""
