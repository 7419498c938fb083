"""Measurements of speed, for benchmark.py; in the clone only."""
