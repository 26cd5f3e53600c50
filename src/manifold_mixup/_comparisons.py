"""Tell from its second derivatives whether a criterion compares the examples of a batch."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._mix import is_continuous
from manifold_mixup._tree import leaves, map_leaves

_SMALLEST = 1e-4  # what counts beside rounding, as a share of the largest
_LARGEST_OUTPUT = 2**20
_MOST_CHANNELS = 64
# The rank in one channel of batch normalisation, for batches of 24 to 64; comparisons of every pair
# have more, 5 in a batch of 12. In a batch of 8 none can have it, and none is seen.
_FEW = 4


class Aliases:
    """Outputs under another name each, so that derivatives by them run no hook of the user's.

    A loss that is a sum over examples has no derivative by two of them at once. One that is a
    function of a few sums over examples (a mean of weighted losses, a root of a mean square, a Dice
    loss over the batch) has a matrix of those derivatives, of all rows of one half of the batch by
    all of the other, with a rank of a few for each channel. One that compares every pair of
    examples has a matrix of a rank that grows with the batch.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._outputs: list[Tensor] = []

    def of(self, output: Any) -> Any:
        """Return an output with an alias of every tensor that has a gradient."""

        def alias(_: str, leaf: Tensor) -> Tensor:
            if not (leaf.requires_grad and is_continuous(leaf)):
                return leaf
            twin = leaf.view_as(leaf)
            self._outputs.append(twin)
            return twin

        return map_leaves(alias, output)

    def compared_in(self, loss: Any) -> bool:
        """Return whether a loss of these outputs compares them; False where it cannot be told."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._compared(loss)
        except Exception:  # a derivative that a criterion does not have is no error of the user's
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
    """The derivatives of a loss by an example of one half of the batch and one of the other."""

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
        """Return which elements are looked at: all."""
        return [torch.ones_like(output) for output, _ in self.pairs]

    def in_one_channel(self) -> list[Tensor]:
        """Return which elements are looked at: those of one channel, the first."""
        masks = []
        for output, _ in self.pairs:
            mask = first = torch.zeros_like(output)
            for _ in output.shape[1:]:
                first = first[:, 0]
            first.fill_(1)
            masks.append(mask)
        return masks

    def rank(self, chosen: Callable[[], list[Tensor]], most: int) -> int:
        """Return the rank of the matrix of derivatives, as far as ``most``."""
        if not self.pairs:
            return 0
        masks = chosen()
        found: list[Tensor] = []
        scale = 0.0
        for vector, own in self._products(masks, most):
            scale = max(scale, float(own.norm()), float(vector.norm()))
            rest = vector
            for _ in range(2):  # once more, as rounding leaves something
                for base in found:
                    rest = rest - (base @ rest) * base
            size = float(rest.norm())
            if not size > _SMALLEST * max(float(vector.norm()), 1e-3 * scale):
                break
            found.append(rest / size)
        return len(found)

    def _products(self, masks: list[Tensor], most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the change of the first half's gradient in random directions of the second.

        Beside it comes the change of the second half's own.
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
