"""Adapters for training libraries, one module each, on the public API alone."""
