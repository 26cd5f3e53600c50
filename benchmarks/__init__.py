"""Benchmarks of the cost of Manifold Mixup: ``python -m benchmarks``."""
