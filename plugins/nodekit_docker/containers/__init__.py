"""Containers: made, followed, kept up; programs that run once for each step."""
