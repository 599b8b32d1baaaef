"""The commands of `nodekit job`. Importing a module adds its commands to the group."""
