"""A run as a value, and the settings chosen for each task."""
