"""Builders: requests, jobs, steps and small components for tests."""
