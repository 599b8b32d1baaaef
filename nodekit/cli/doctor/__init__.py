"""`nodekit doctor`: checks of the machine, the installed packages and a node file."""
