"""The hypothesis profile of the whole suite."""

from hypothesis import settings

# The first call into torch takes longer than the default deadline, and a failure must come back.
settings.register_profile("manifold-mixup", deadline=None, derandomize=True)
settings.load_profile("manifold-mixup")
