"""`nodekit doctor`: check the machine, the installed packages and a node file."""
