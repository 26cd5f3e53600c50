"""Why it works: the theorem as an experiment, and what hidden states look like."""
