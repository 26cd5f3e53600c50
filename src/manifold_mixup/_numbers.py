"""Random numbers for each element of a state: a function of a key alone.

They are an operator of their own, so that compiled code without a break, a recomputation and a
resumed run get the same numbers. A device has numbers of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.custom_op("manifold_mixup::numbers", mutates_args=())
def _numbers(key: Tensor, shape: Sequence[int], device: torch.device, normal: bool) -> Tensor:
    generator = torch.Generator(device).manual_seed(int(key))
    made = torch.empty(shape, dtype=torch.float32, device=device)
    return made.normal_(generator=generator) if normal else made.uniform_(generator=generator)


@_numbers.register_fake
def _(key: Tensor, shape: Sequence[int], device: torch.device, normal: bool) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=device)


def uniform(key: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return uniform numbers from 0 to below 1, float32.

    Args:
        key: an int64 scalar on the CPU.
        shape: the shape of the numbers.
        device: their device.
    """
    made: Tensor = _numbers(key, list(shape), device, False)
    return made


def normal(key: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers of the standard normal distribution, float32.

    Args:
        key: an int64 scalar on the CPU.
        shape: the shape of the numbers.
        device: their device.
    """
    made: Tensor = _numbers(key, list(shape), device, True)
    return made
