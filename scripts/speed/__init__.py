"""Measurements of speed: what benchmark.py runs. Needed in a clone only, so it is not installed."""
