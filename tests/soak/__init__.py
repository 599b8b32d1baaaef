"""A day of work in half an hour: a real node under a mixed load and faults, and what is measured meanwhile."""
