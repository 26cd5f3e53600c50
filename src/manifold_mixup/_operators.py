"""Operators of our own: compiled code calls them, and does not take them apart.

So random numbers are the same in compiled code without a break, in a recomputation and in a resumed
run: a function of a key alone. A device has numbers of its own.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_libraries: list[torch.library.Library] = []


def register() -> None:
    """Make the operators, unless they are there; outside of compiled code.

    Not on import, because most users never need them, and not by torch.library.custom_op, which
    takes longer to call.
    """
    if not _libraries:
        library = torch.library.Library("manifold_mixup", "DEF")
        for schema, run, like in _OPERATORS:
            library.define(schema)
            name = schema.partition("(")[0]
            library.impl(name, run, "CompositeExplicitAutograd")
            torch.library.register_fake(f"manifold_mixup::{name}", like, lib=library)
        _libraries.append(library)  # which would be undone with it


def numbers(key: Tensor, shape: Sequence[int], device: torch.device, *, normal: bool) -> Tensor:
    """Return random numbers, float32: of the standard normal distribution, or from 0 to below 1.

    Args:
        key: an int64 scalar on the CPU.
        shape: the shape of the numbers.
        device: their device.
        normal: whether they are of the normal distribution.
    """
    register()
    made: Tensor = torch.ops.manifold_mixup.numbers(key, list(shape), device, normal)
    return made


def patches(
    key: Tensor, shape: Sequence[int], device: torch.device, share: float, block: int
) -> Tensor:
    """Return where patches are, bool.

    Args:
        key: an int64 scalar on the CPU.
        shape: ``(channels, *sides)``.
        device: their device.
        share: about the share of the positions that lie in patches (Ghiasi et al., 2018, Eq. 1).
        block: the sides of a patch, odd.
    """
    register()
    made: Tensor = torch.ops.manifold_mixup.patches(key, list(shape), device, share, block)
    return made


def stored(weight: Tensor) -> Tensor:
    """Return the same weight in memory of its own, if the compiler would do worse.

    On the CPU it would compute a weight anew for each row of a state, and load it number by number
    if it is bool.
    """
    compiled_for_cpu = torch.compiler.is_compiling() and weight.device.type == "cpu"
    if not compiled_for_cpu or weight.ndim < 2 or not _libraries:
        return weight
    made: Tensor = torch.ops.manifold_mixup.stored(weight)
    return made > 0 if weight.dtype == torch.bool else made


def _numbers(key: Tensor, shape: Sequence[int], device: torch.device, normal: bool) -> Tensor:
    generator = torch.Generator(device).manual_seed(int(key))
    made = torch.empty(shape, dtype=torch.float32, device=device)
    return made.normal_(generator=generator) if normal else made.uniform_(generator=generator)


def _like_numbers(key: Tensor, shape: Sequence[int], device: torch.device, _: bool) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=device)


def _patches(
    key: Tensor, shape: Sequence[int], device: torch.device, share: float, block: int
) -> Tensor:
    rate = share
    for side in shape[1:]:
        rate = rate * side / (block * (side - block + 1))
    inside = _centres(key, shape, device, rate)
    for axis in range(1, len(shape)):
        inside = _grown(inside, axis, block)
    return inside


def _centres(key: Tensor, shape: Sequence[int], device: torch.device, rate: float) -> Tensor:
    if device.type != "cpu" or rate >= 1:
        return _numbers(key, shape, device, normal=False) < rate
    # Few positions are centres, so the gaps between them take fewer numbers. Their distribution is
    # geometric.
    generator = torch.Generator(device).manual_seed(int(key))
    count = math.prod(shape)
    usual = count * rate
    drawn, last = [], -1.0
    while last < count - 1:
        size = int(usual + 4 * math.sqrt(usual) + 16)
        uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=device)
        places = uniform.log_().div_(math.log1p(-rate)).floor_().add_(1).cumsum(0).add_(last)
        drawn.append(places)
        last = places[-1].item()
    places = torch.cat(drawn)
    centres = torch.zeros(count, dtype=torch.bool, device=device)
    return centres.index_fill_(0, places[places < count].long(), True).view(shape)


def _grown(inside: Tensor, axis: int, block: int) -> Tensor:
    """Return what is within half a block of it: in log2(block) steps, not as max_pool does."""
    margin = (0, 0) * (inside.ndim - 1 - axis) + (block // 2, block // 2)
    inside = torch.nn.functional.pad(inside, margin)
    done = 1
    while done < block:
        step = min(done, block - done)
        length = inside.shape[axis] - step
        inside = inside.narrow(axis, 0, length) | inside.narrow(axis, step, length)
        done += step
    return inside


def _like_patches(
    key: Tensor, shape: Sequence[int], device: torch.device, share: float, block: int
) -> Tensor:
    return torch.empty(shape, dtype=torch.bool, device=device)


def _stored(weight: Tensor) -> Tensor:
    return _like_stored(weight).copy_(weight)


def _like_stored(weight: Tensor) -> Tensor:
    dtype = torch.float32 if weight.dtype == torch.bool else weight.dtype
    return torch.empty(weight.shape, dtype=dtype, device=weight.device)


_OPERATORS = (
    (
        "numbers(Tensor key, SymInt[] shape, Device device, bool normal) -> Tensor",
        _numbers,
        _like_numbers,
    ),
    (
        "patches(Tensor key, SymInt[] shape, Device device, float share, int block) -> Tensor",
        _patches,
        _like_patches,
    ),
    ("stored(Tensor weight) -> Tensor", _stored, _like_stored),
)
