"""The batteries of tests that `evaluate` runs, each part in rows of numbers."""
