"""Model cards: what is known of a run, and the README.md that tells it."""
