"""The plugin API, written down: a line for each thing that a plugin, a node file or a script can rely on."""
