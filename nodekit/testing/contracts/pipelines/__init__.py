"""Suites of the rule that says which step of a job is due."""
