"""A fixed first module, so that attacks are stated in the units of the data."""

import torch
from torch import Tensor, nn

from manifold_mixup.lab.data import Data


class Standardize(nn.Module):
    """Subtract the data set's mean and divide by its deviation.

    Being inside the model, it leaves ``model(x)`` a function of the raw data: an attack of
    strength ε on ``x`` is an attack of ε in pixels, whatever the scaling.
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
        """Return the input with mean 0 and deviation 1 over the training set."""
        return (x - self.mean) / self.std


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation over all inputs, as models see them."""
    if x.dtype != torch.uint8:
        return x.mean(), x.std()
    # Counting the 256 values needs no copy of all images as floats.
    parts = [part.flatten().bincount(minlength=256) for part in x.split(4096)]
    count = torch.stack(parts).sum(0).double()
    value = torch.arange(256, dtype=torch.float64) / 255
    mean = (count * value).sum() / count.sum()
    variance = (count * (value - mean).square()).sum() / (count.sum() - 1)
    return mean.float(), variance.sqrt().float()
