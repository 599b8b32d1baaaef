"""`nodekit plugins`: list what installed packages provide."""
