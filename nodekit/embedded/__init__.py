"""A JobStore made of a JobTable, for one machine: queue, schedule, claims and change feed in memory."""
