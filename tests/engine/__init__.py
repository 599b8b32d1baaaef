"""The test bed: a real engine, images made without a network, registries on loopback.

Tests take the fixtures of `engine.fixtures`; `python tests/engine run -- COMMAND…` runs a command beside an engine.
Nothing is imported here: every start of pytest imports the fixtures, and docker-py takes a while.
"""
