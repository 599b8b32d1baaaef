"""Suites of components that keep jobs: tables, stores, and stores that outlive the process."""
