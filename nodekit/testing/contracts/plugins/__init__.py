"""Suites of plugins: guards, observers, and the promises that both share."""
