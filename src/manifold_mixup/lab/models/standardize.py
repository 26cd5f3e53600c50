"""Standardisation inside the model, so that attacks are in the units of the data."""

import torch
from torch import Tensor, nn

from manifold_mixup.lab.data import Data


class Standardize(nn.Module):
    """Subtract the data set's mean and divide by its standard deviation.

    Because this happens inside the model, ``model(x)`` is a function of the raw data: an attack of
    size ε on ``x`` changes pixels by ε, whatever the scaling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, data: Data) -> None:
        super().__init__()
        if data.mean is None or data.std is None:
            mean, std = _moments(data.x)
        else:
            mean, std = torch.tensor(data.mean), torch.tensor(data.std)
        if data.x.ndim == 4:
            mean, std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp_min(torch.finfo(std.dtype).tiny))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, scaled to mean 0 and standard deviation 1 over the training set."""
        return (x - self.mean) / self.std


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of all inputs, with pixels scaled to 0 to 1."""
    if x.dtype != torch.uint8:
        return x.mean(), x.std()
    # Counting the 256 values avoids a copy of all images as floats.
    parts = [part.flatten().bincount(minlength=256) for part in x.split(4096)]
    count = torch.stack(parts).sum(0).double()
    value = torch.arange(256, dtype=torch.float64) / 255
    mean = (count * value).sum() / count.sum()
    variance = (count * (value - mean).square()).sum() / (count.sum() - 1)
    return mean.float(), variance.sqrt().float()
