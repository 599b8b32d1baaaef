"""`nodekit new`: write a plugin package from a template."""
