"""`python -m nodekit`."""

from nodekit.cli import main

if __name__ == "__main__":
    main()
