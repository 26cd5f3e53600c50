"""A fixed first module, so that attacks are stated in the units of the data."""

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """Subtract the mean of the training inputs and divide by their deviation.

    Being inside the model, it leaves ``model(x)`` a function of the raw data: an attack of
    strength ε on ``x`` is an attack of ε in pixels, whatever the scaling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", x.mean())
        self.register_buffer("std", x.std().clamp_min(torch.finfo(x.dtype).tiny))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input with mean 0 and deviation 1 over the training set."""
        return (x - self.mean) / self.std
