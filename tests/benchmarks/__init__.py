"""Benchmarks: what the locks cost beside those one would otherwise use. `python -m tests.benchmarks --help`."""
