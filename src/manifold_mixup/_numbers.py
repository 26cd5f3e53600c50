"""Random numbers for each element of a state: a function of a key alone.

They are an operator of their own, so that compiled code without a break, a recomputation and a
resumed run get the same numbers. A device has numbers of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_libraries: list[torch.library.Library] = []


def register() -> None:
    """Make the operator, unless it is there; outside of compiled code.

    Not on import, because most users never need it, and not by torch.library.custom_op, which takes
    longer to call.
    """
    if not _libraries:
        library = torch.library.Library("manifold_mixup", "DEF")
        library.define("numbers(Tensor key, SymInt[] shape, Device device, bool normal) -> Tensor")
        library.impl("numbers", _numbers, "CompositeExplicitAutograd")
        torch.library.register_fake("manifold_mixup::numbers", _like_them, lib=library)
        _libraries.append(library)  # which would be undone with it


def _numbers(key: Tensor, shape: Sequence[int], device: torch.device, normal: bool) -> Tensor:
    generator = torch.Generator(device).manual_seed(int(key))
    made = torch.empty(shape, dtype=torch.float32, device=device)
    return made.normal_(generator=generator) if normal else made.uniform_(generator=generator)


def _like_them(key: Tensor, shape: Sequence[int], device: torch.device, normal: bool) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=device)


def uniform(key: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return uniform numbers from 0 to below 1, float32.

    Args:
        key: an int64 scalar on the CPU.
        shape: the shape of the numbers.
        device: their device.
    """
    register()
    made: Tensor = torch.ops.manifold_mixup.numbers(key, list(shape), device, False)
    return made


def normal(key: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers of the standard normal distribution, float32.

    Args:
        key: an int64 scalar on the CPU.
        shape: the shape of the numbers.
        device: their device.
    """
    register()
    made: Tensor = torch.ops.manifold_mixup.numbers(key, list(shape), device, True)
    return made
