"""The training loop and everything a step needs."""
