"""`nodekit config`: print the schema of node files, or the settings in effect."""
