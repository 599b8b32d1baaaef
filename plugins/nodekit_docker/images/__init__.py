"""Images, each pulled at most once at a time, with progress."""
