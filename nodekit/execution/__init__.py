"""The executor: claims jobs and runs their steps, one call of a container after another."""
