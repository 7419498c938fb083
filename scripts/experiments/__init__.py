"""Sweeps of runs: what reproduce.py trains and reports."""
