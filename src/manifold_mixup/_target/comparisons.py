"""Detect, by second derivatives, whether a criterion compares the examples of a batch."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._batch_first import batch_first, undo_batch_first
from manifold_mixup._mix import is_continuous
from manifold_mixup._tree import leaves, map_leaves

_SMALLEST = 1e-4  # smaller values count as rounding, relative to the largest
_LARGEST_OUTPUT = 2**20
_MOST_CHANNELS = 64
# The rank of batch normalisation in one channel, for batches of 24 to 64 (measured). Comparing
# every pair has a higher rank: 5 in a batch of 12. In a batch of 8 no comparison can be seen.
_FEW = 4


class Aliases:
    """Aliases of the outputs, so that differentiating by them runs none of the user's hooks.

    If a loss is a sum over examples, its mixed second derivatives between two examples are zero. If
    it is a function of a few sums over examples (a mean of weighted losses, a root of a mean
    square, a Dice loss over the batch), the matrix of these derivatives between the two halves of
    the batch has a small rank per channel. If it compares every pair of examples, the rank grows
    with the batch.
    """

    def __init__(self, batch: int, dim: int = 0) -> None:
        self._batch, self._dim = batch, dim
        self._outputs: list[Tensor] = []

    def replace_in(self, output: Any) -> Any:
        """Return an output in which every tensor with a gradient is replaced by an alias."""

        def alias(_: str, leaf: Tensor) -> Tensor:
            if not (leaf.requires_grad and is_continuous(leaf)):
                return leaf
            aliased = batch_first(leaf.view_as(leaf), self._dim)
            self._outputs.append(aliased)
            return undo_batch_first(aliased, self._dim)  # type: ignore[no-any-return]

        return map_leaves(alias, output)

    def compared_in(self, loss: Any) -> bool:
        """Return whether a loss of these outputs compares them; False if that is unknown."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._compared(loss)
        except Exception:  # a missing second derivative is not a user error
            return False

    def _compared(self, loss: Any) -> bool:
        outputs = self._outputs
        too_large = sum(output.numel() for output in outputs) > _LARGEST_OUTPUT
        exact = all(output.dtype in (torch.float32, torch.float64) for output in outputs)
        rows = all(out.ndim in (1, 2, 3) and out.shape[0] == self._batch for out in outputs)
        if not outputs or self._batch < 2 or too_large or not (exact and rows):
            return False
        total = sum(
            leaf.sum() for _, leaf in leaves(loss) if leaf.requires_grad and is_continuous(leaf)
        )
        if not isinstance(total, Tensor) or not total.requires_grad:
            return False
        halves = _Halves(total, outputs, self._batch)
        channels = max(max(output.shape[1:], default=1) for output in outputs)
        few = 2 * min(channels, _MOST_CHANNELS) + 2
        if halves.rank(halves.everywhere, few + 1) <= few:
            return False
        return channels == 1 or halves.rank(halves.in_one_channel, _FEW + 1) > _FEW


class _Halves:
    """The second derivatives of a loss between the two halves of the batch."""

    def __init__(self, loss: Tensor, outputs: list[Tensor], rows: int) -> None:
        self.outputs, self.half = outputs, rows // 2
        self.generator = torch.Generator("cpu").manual_seed(0)
        grads = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True)
        pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
        self.pairs = [(out, grad) for out, grad in pairs if grad.requires_grad]

    def _draw(self, output: Tensor) -> Tensor:
        drawn = torch.randn(
            output.shape, generator=self.generator, dtype=output.dtype, device="cpu"
        )
        return drawn.to(output.device)

    def everywhere(self) -> list[Tensor]:
        """Return a mask of the elements to use: all."""
        return [torch.ones_like(output) for output, _ in self.pairs]

    def in_one_channel(self) -> list[Tensor]:
        """Return a mask of the elements to use: those of the first channel."""
        masks = []
        for output, _ in self.pairs:
            mask = first = torch.zeros_like(output)
            for _ in output.shape[1:]:
                first = first[:, 0]
            first.fill_(1)
            masks.append(mask)
        return masks

    def rank(self, chosen: Callable[[], list[Tensor]], most: int) -> int:
        """Return the rank of the matrix of derivatives, counted up to ``most``."""
        if not self.pairs:
            return 0
        masks = chosen()
        found: list[Tensor] = []
        scale = 0.0
        for vector, own in self._products(masks, most):
            scale = max(scale, float(own.norm()), float(vector.norm()))
            rest = vector
            for _ in range(2):  # twice, because rounding leaves a remainder
                for base in found:
                    rest = rest - (base @ rest) * base
            size = float(rest.norm())
            if not size > _SMALLEST * max(float(vector.norm()), 1e-3 * scale):
                break
            found.append(rest / size)
        return len(found)

    def _products(self, masks: list[Tensor], most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the change of the first half's gradient along random directions of the second.

        With it comes the change of the second half's own gradient.
        """
        outputs = [output for output, _ in self.pairs]
        for _ in range(most):
            directions = [self._draw(out) * mask for out, mask in zip(outputs, masks, strict=True)]
            for direction in directions:
                direction[: self.half] = 0
            grads = [grad for _, grad in self.pairs]
            along = torch.autograd.grad(
                grads, outputs, directions, retain_graph=True, allow_unused=True
            )
            parts = [
                torch.zeros_like(out) if part is None else part * mask
                for out, part, mask in zip(outputs, along, masks, strict=True)
            ]
            first = [part[: self.half].reshape(-1) for part in parts]
            second = [part[self.half :].reshape(-1) for part in parts]
            yield torch.cat(first), torch.cat(second)
