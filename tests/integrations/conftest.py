"""What all trainings with other libraries share."""

import gc

import pytest


@pytest.fixture(autouse=True)
def _nothing_to_collect():
    """Freeze what was imported: Transformers' Trainer collects garbage whenever it starts.

    To look at all objects of these libraries takes longer than a training here.
    """
    gc.freeze()
    yield
    gc.unfreeze()
