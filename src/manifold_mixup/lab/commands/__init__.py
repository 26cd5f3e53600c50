"""One file for each command of the command line: its `Options`, `prepare` and `run`."""
