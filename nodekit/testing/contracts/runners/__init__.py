"""Suites of components that call containers, with or without streaming."""
