"""The plugin API as text: a line for each thing that a plugin, a node file or a script can rely on."""
