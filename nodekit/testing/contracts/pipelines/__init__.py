"""The rule that says which step of a job is due."""
