"""Images: pulled at most once at a time, with progress."""
