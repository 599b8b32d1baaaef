"""Bounded attacks on a served node, and what is measured meanwhile."""
