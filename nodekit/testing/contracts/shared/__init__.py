"""Stores on which several nodes work: one queue, leases, fencing, announcements."""
