"""The work that a job makes, in counts: Python calls, callbacks, tasks, SQL statements, commits, system calls."""
