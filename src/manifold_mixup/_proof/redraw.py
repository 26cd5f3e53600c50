"""Draw parameters and examples for the permutation proof that hide no effect."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._dry_run.stand_ins import cast
from manifold_mixup._inputs import map_inputs, named_inputs
from manifold_mixup._masks import shortened, valid_positions
from manifold_mixup._mix import is_continuous
from manifold_mixup._proof.thin import draw_thin, pool_of


@dataclass(frozen=True)
class Examples:
    """A batch of drawn examples.

    Attributes:
        inputs: positional and keyword arguments of the model's forward.
        batched: names of the input tensors whose rows are the examples.
        count: number of examples.
    """

    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    batched: frozenset[str]
    count: int

    def reordered(
        self, model: nn.Module, perm: Tensor | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copy the arguments with the examples in the order ``perm``; None keeps the order."""

        def reorder(name: str, tensor: Tensor) -> Tensor:
            if perm is None or name not in self.batched:
                return tensor.clone()
            return tensor[perm.to(tensor.device)]

        return map_inputs(reorder, model, *self.inputs)


def redraw_parameters(model: nn.Module, gain: float = 1.0) -> None:
    """Redraw every parameter at a natural scale.

    A head of zeros gives the same output for every example, and a LayerScale of 1e-6 hides a whole
    branch. Weights become normal with variance 2 / fan-in, scales (of norms, LayerScale and the
    like) lie in 0.5 to 1.5, and biases have a standard deviation of 0.1. The global generator is
    not used.

    Args:
        model: the model.
        gain: by what weights are multiplied. Thin ones stay as they are.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_continuous(parameter) and parameter.numel():
                if pool_of(parameter) is not None:
                    draw_thin(parameter, _scale(parameter.shape), generator)
                    continue
                drawn = _natural(name, parameter.shape, generator, gain)
                if parameter.is_complex():
                    drawn = torch.complex(drawn, _natural(name, parameter.shape, generator, gain))
                parameter.copy_(drawn)


def _natural(name: str, shape: torch.Size, generator: torch.Generator, gain: float) -> Tensor:
    normal = torch.randn(shape, generator=generator, device="cpu")
    if max(shape, default=1) == shape.numel():  # one axis: a bias or a scale
        return 0.1 * normal if "bias" in name else 0.5 + 0.5 * normal.erf().add(1)
    return gain * _scale(shape) * normal


def _scale(shape: torch.Size) -> float:
    # Class tokens and position embeddings have a leading dimension of 1.
    fan_in = shape[1:].numel() if shape[0] > 1 else shape[-1]
    return math.sqrt(2 / fan_in)


def draw_examples(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batched: frozenset[str],
    count: int,
    dtype: torch.dtype,
    batch: int,
    mask: str | None = None,
    last_token: bool = False,
) -> Examples:
    """Take ``count`` rows of the inputs ``batched``, and make equal rows differ.

    Floating inputs (zeros, or one example repeated) get noise at their own scale. If whole examples
    are equal, token ids are rolled within each row, so that no unknown id appears. Masks stay,
    except the padding ``mask``, which gets more padding, with the ids that padding has in the
    batch. If ids choose positions (``last_token``), a batch without padding gets none either.
    """
    inputs = dict(named_inputs(model, args, kwargs))
    rows = torch.arange(count, device="cpu") % batch
    same = all(alike(inputs[name][rows]) for name in batched)
    generator = torch.Generator().manual_seed(0)
    padding = _Padding(inputs[mask][rows], mask) if mask in batched and mask in inputs else None

    def draw(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(cast(tensor, dtype), copy=True)
        if name not in batched:
            return tensor
        tensor = tensor[rows.to(tensor.device)]
        if name == mask and padding is not None:
            return tensor if last_token and padding.free else padding.mask.to(tensor.dtype)
        if "mask" in name.lower():
            return tensor
        if is_continuous(tensor):
            return noisy(tensor, generator) if alike(tensor) else tensor
        ids = _rolled(tensor) if same else tensor
        return ids if padding is None or padding.free else padding.filled(ids)

    return Examples(map_inputs(draw, model, args, kwargs), batched, count)


class _Padding:
    """More padding than a mask has.

    Args:
        mask: the mask.
        name: its name.
    """

    def __init__(self, mask: Tensor, name: str) -> None:
        self.mask = shortened(mask, name)
        self.before, self.after = valid_positions(mask, name), valid_positions(self.mask, name)
        self.free = bool(self.before.all())  # whether the mask has no padding

    def filled(self, ids: Tensor) -> Tensor:
        """Put the id of the padding where there is more padding now, after the same last token.

        A model may look for that one, such as the end of a sentence.
        """
        if ids.shape != self.before.shape:
            return ids
        before, after = self.before.to(ids.device), self.after.to(ids.device)
        kept = ids.scatter(1, _last(after), ids.gather(1, _last(before)))
        return torch.where(before & ~after, ids[~before][0], kept)


def _last(valid: Tensor) -> Tensor:
    """Return the last valid position of each row, ``(batch, 1)``."""
    return valid.shape[1] - 1 - valid.flip(1).int().argmax(1, keepdim=True)


def alike(tensor: Tensor) -> bool:
    """Return whether a row equals the next one, so that a cyclic shift would not be visible."""
    same = tensor == tensor.roll(-1, 0)
    return bool(same.flatten(1).all(1).any()) if tensor.ndim > 1 else bool(same.any())


def noisy(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise at a tensor's own scale, or take parts of one number: it may be a length of 1."""
    scale = float(tensor.std(correction=0))
    if not scale and tensor.numel() and float(tensor.abs().max()):
        part = torch.rand(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
        return tensor * (1 + part.to(tensor)) / 2
    scale = scale or 1.0
    noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device="cpu")
    return tensor + scale * noise.to(tensor.device)


def _rolled(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2:
        return tensor
    return torch.stack([row.roll(index, -1) for index, row in enumerate(tensor)])
