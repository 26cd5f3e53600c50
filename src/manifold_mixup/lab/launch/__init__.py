"""Many runs: in this process, in workers, on a Ray cluster."""
