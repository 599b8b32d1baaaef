"""`python -m nodekit.cli`."""

from nodekit.cli import main

main()
