"""What anyio lacks: a signal that wakes again and again, and changes that no cancellation cuts in two."""
