"""What Manifold Mixup costs, measured: ``python -m benchmarks``."""
