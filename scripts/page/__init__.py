"""The page of demo.py."""
