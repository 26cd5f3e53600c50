"""Compare outputs: what counts as rounding, and what as a difference."""

import math

import torch
from torch import Tensor

# The outputs of different examples must differ by this many times the rounding error.
TELLING = 1000.0
# Up to this many times the plain model's rounding error still counts as rounding.
ROUNDING = 30.0


def difference(output: Tensor, perm: Tensor) -> float:
    """Return the smallest distance between a row and the row that replaces it."""
    apart = (output - output[perm]).abs().reshape(len(output), -1)  # an output may be (batch,)
    return float(apart.amax(1).min()) if apart.numel() else 0.0


def floor(output: Tensor) -> float:
    """Return the rounding of a single operation."""
    return torch.finfo(output.dtype).eps * float(output.abs().max())


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two outputs; infinite if their shapes differ."""
    if a.shape != b.shape:
        return math.inf
    largest = (a.detach() - b).abs().max() if a.numel() else torch.zeros(())
    return float(largest.nan_to_num(nan=math.inf))
