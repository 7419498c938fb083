"""Imports what a saved model uses that is not of this package: nothing here, but see `save_plugins`."""

PLUGINS = []
