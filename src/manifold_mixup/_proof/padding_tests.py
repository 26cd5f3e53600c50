"""Test what a model does with padding that is mixed, and with the values in the padding."""

from contextlib import suppress

import torch
from torch import Tensor

from manifold_mixup._proof.bench import plan_at
from manifold_mixup._proof.influence import Influence
from manifold_mixup._proof.partners import most_different_padding
from manifold_mixup._proof.unmixed import Unmixed


class PaddingTests:
    """Tests of a model with a padding mask.

    Args:
        unmixed: the outputs of the unmixed model.
    """

    def __init__(self, unmixed: Unmixed) -> None:
        self.unmixed = unmixed
        self.bench = unmixed.bench

    def misread(self, layer: str) -> str:
        """Return how a module misreads positions that one of two examples has; empty if none does.

        What these positions are to an example and its partner is the same among more examples.
        """
        if self.bench.thin:
            pair = torch.tensor(most_different_padding(self.bench.padding.valid), device="cpu")
            with suppress(Exception):  # from a model that needs its number of examples
                alone = self._influence(layer, 0.5, pair)
                if not alone.is_faint():
                    return _ROUNDED if alone.is_rounded() else ""
        middle = self._influence(layer, 0.5)
        if middle.is_rounded():
            return _ROUNDED
        lost = middle.is_faint() and self._influence(layer, 1.0).lost(middle)
        return _INTERSECTION if lost else ""

    def _influence(self, layer: str, lam: float, rows: Tensor | None = None) -> Influence:
        """Measure, at a ``lam``, how much positions count that an example's partner has not.

        Args:
            layer: the layer.
            lam: λ.
            rows: two examples to take alone; None takes all.
        """
        valid, perm = self.bench.padding.valid, self.unmixed.perm
        if rows is not None:
            valid, perm = valid[rows.to(valid.device)], torch.tensor([1, 0], device="cpu")
        influence = Influence(valid, perm, layer, nested=lam == 1)
        try:
            with self.bench.run_pass(rows, plan_at(layer, lam, perm), influence):
                return influence
        finally:
            influence.restore()

    def why(self, worst: str) -> str:
        """Return a reason if the output ``worst`` also depends on the padding; empty otherwise."""
        read = self._reading_padding()
        if worst not in read:
            return ""
        if fine := [path for path in self.unmixed.plain if path not in read]:
            named = ", ".join(map(repr, read[:_SHOWN])) + (", ..." if len(read) > _SHOWN else "")
            return _SOME_PADDING.format(named, fine[0])
        return _PADDING

    def _reading_padding(self) -> list[str]:
        """List the unmixed outputs that depend on the values in the padding."""
        padding = self.bench.padding
        still = torch.arange(self.bench.examples.count, device="cpu")
        with self.bench.run_pass(
            None, None, call=padding.with_other_padding(self.bench.model)
        ) as outputs:
            return [
                path
                for path, end in self.unmixed.plain.items()
                if padding.error(outputs[path], end, still) > self.unmixed.visible_error(path)
            ]


# Number of outputs in a message.
_SHOWN = 3
_POOL = (
    "Pool in a module that receives the mask, and use it as weights; multiply the states by them "
    "before a convolution"
)
_PADDING = (
    "the outputs depend on the values in the padding, even without mixing: a mean, a position or a "
    f"convolution includes them. {_POOL}"
)
_SOME_PADDING = (
    "the values in the padding count, even without mixing, in the outputs {0}, but not in {1!r}. "
    "If the loss does not read those, name what it reads, as in outputs={1!r}. Otherwise: "
    f"{_POOL[0].lower()}{_POOL[1:]}"
)
_INTERSECTION = (
    "between λ = 0 and 1, a position that only one of two examples has does not count: a module "
    "forbids it as soon as its weight is less than 1, as (1 - mask) * -1e4 does. Pass the module "
    "an additive mask"
)
_ROUNDED = (
    "between λ = 0 and 1, a module does not use the mixed mask as weights, but rounds or compares "
    "them: a position counts fully or not at all, at whatever weight. Weight by the mask, as "
    "(weights[..., None] * h).sum(1) / weights.sum(1, keepdim=True) does"
)
