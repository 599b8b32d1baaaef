"""A JobStore built on a JobTable, for one machine: queue, schedule, claims and change feed in memory."""
