"""What the permutation proof runs on: parameters and examples in which nothing gets lost."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._inputs import leading, map_inputs, named_inputs

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def redraw_parameters(model: nn.Module) -> None:
    """Draw every parameter anew at a natural scale.

    A head of zeros says the same of every example, and a LayerScale of 1e-6 hides a whole branch.
    Weights become normal with variance 2 / fan-in, scales (of norms, LayerScale and the like) lie
    in 0.5 to 1.5, biases have a standard deviation of 0.1. The global generator is not used.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.numel():
                parameter.copy_(_natural(name, parameter.shape, generator))


def _natural(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=generator, device="cpu")
    if max(shape, default=1) == shape.numel():  # one axis: a bias or a scale
        return 0.1 * normal if "bias" in name else 0.5 + 0.5 * normal.erf().add(1)
    # Class tokens and position embeddings have a leading dimension of 1.
    fan_in = shape[1:].numel() if shape[0] > 1 else shape[-1]
    return math.sqrt(2 / fan_in) * normal


def draw_examples(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], count: int, dtype: torch.dtype
) -> Arguments:
    """Take ``count`` rows of a batch, and make rows differ that are alike.

    Floating inputs (zeros, or one example repeated) get noise of their own scale. Token ids, where
    whole examples are alike, are rolled within each row, so that no unknown id appears. Masks stay.
    """
    inputs = list(named_inputs(model, args, kwargs))
    batch = len(leading(inputs))
    rows = torch.arange(count, device="cpu") % batch
    alike = all(_alike(tensor[rows]) for _, tensor in inputs if _follows(tensor, batch))
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(
            dtype if tensor.is_floating_point() else tensor.dtype, copy=True
        )
        if not _follows(tensor, batch):
            return tensor
        tensor = tensor[rows]
        if "mask" in name.lower():
            return tensor
        if tensor.is_floating_point():
            return _noisy(tensor, generator) if _alike(tensor) else tensor
        return _rolled(tensor) if alike else tensor

    return map_inputs(draw, model, args, kwargs)


def permute_examples(model: nn.Module, arguments: Arguments, perm: Tensor) -> Arguments:
    """Reorder the examples of a batch; ``perm`` the identity copies them."""

    def permute(_: str, tensor: Tensor) -> Tensor:
        follows = _follows(tensor, len(perm))
        return tensor[perm.to(tensor.device)] if follows else tensor.clone()

    return map_inputs(permute, model, *arguments)


def _follows(tensor: Tensor, batch: int) -> bool:
    return tensor.ndim > 0 and len(tensor) == batch


def _alike(tensor: Tensor) -> bool:
    """Say whether a row equals the one after it: a cyclic shift of the two could not be seen."""
    same = tensor == tensor.roll(-1, 0)
    return bool(same.flatten(1).all(1).any()) if tensor.ndim > 1 else bool(same.any())


def _noisy(tensor: Tensor, generator: torch.Generator) -> Tensor:
    scale = float(tensor.std(correction=0)) or 1.0
    noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device="cpu")
    return tensor + scale * noise.to(tensor.device)


def _rolled(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2:
        return tensor
    return torch.stack([row.roll(place, -1) for place, row in enumerate(tensor)])
