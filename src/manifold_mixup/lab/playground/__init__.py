"""Watching two spirals being learnt, with and without a method, in a browser."""
