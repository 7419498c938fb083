"""Programs over the library: train, evaluate, predict. Each also runs as `python -m modeling_lfm.scripts.<name>`."""
