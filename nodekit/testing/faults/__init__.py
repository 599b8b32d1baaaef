"""Faults at chosen calls of a component."""
