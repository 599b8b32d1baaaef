"""Additions to anyio: a signal that wakes repeatedly, and changes that no cancellation interrupts."""
