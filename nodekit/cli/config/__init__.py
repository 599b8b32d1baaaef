"""`nodekit config`: the schema of node files, and the settings in effect."""
