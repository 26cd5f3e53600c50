"""Predictions of a regression in the units of its targets."""

from torch import Tensor, nn


class InUnits(nn.Module):
    """Scale an output to the mean and standard deviation of the training targets.

    The network before it learns numbers of mean 0 and standard deviation 1, whatever the units.

    Args:
        y: the training targets, ``(n,)``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", y.double().mean().float())
        self.register_buffer("std", y.double().std().float())

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions ``(batch,)`` from outputs ``(batch, 1)``."""
        return x.squeeze(1) * self.std + self.mean
