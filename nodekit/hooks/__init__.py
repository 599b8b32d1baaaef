"""The hooks of plugins: their specifications, the manager that calls them, mounts and container rules."""
