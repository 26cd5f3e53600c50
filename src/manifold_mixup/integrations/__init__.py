"""Adapters for training libraries, one module each, built on the public API only."""
