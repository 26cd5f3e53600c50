"""Examples for the proof that are graphs: the batch as it is, with other features of its nodes.

Graphs cannot be taken in another order or number without knowing every tensor that holds node
numbers. They need not be: mixed after the pooling, they are rows like any others, and other
features of one graph's nodes show which rows of the outputs are its own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._dry_run.stand_ins import cast
from manifold_mixup._graphs import graphs_in
from manifold_mixup._inputs import leading, map_inputs, named_inputs
from manifold_mixup._mix import is_continuous
from manifold_mixup._proof.redraw import Examples, alike, noisy


@dataclass(frozen=True)
class Graphs(Examples):
    """A batch of graphs; `batched` names the features of the nodes.

    Attributes:
        numbers: the graph of each node, ``(nodes,)``.
    """

    numbers: Tensor

    def reordered(
        self, model: nn.Module, perm: Tensor | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copy the arguments; graphs are never reordered."""
        return map_inputs(lambda _, tensor: tensor.clone(), model, *self.inputs)

    def replaced(self, model: nn.Module, graph: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copy the arguments with other features of the nodes of one graph."""
        generator = torch.Generator().manual_seed(1)

        def replace(name: str, tensor: Tensor) -> Tensor:
            if name not in self.batched:
                return tensor.clone()
            other = noisy(tensor, generator) if is_continuous(tensor) else tensor.roll(1, 0)
            own = self.numbers.to(tensor.device) == graph
            return torch.where(own.view(-1, *(1 for _ in tensor.shape[1:])), other, tensor)

        return map_inputs(replace, model, *self.inputs)


def draw_graphs(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    lead: str,
    dtype: torch.dtype,
    *,
    noise: bool,
) -> Graphs:
    """Take the batch as it is; with ``noise``, features get some where neighbours are equal.

    Floating features are those that may be replaced, or if there are none, integer ones (the kinds
    of atoms).

    Args:
        model: the model.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        lead: name of the input that holds the graph of each node.
        dtype: dtype of the floating inputs.
        noise: whether features may get noise, which positions and category ids may not endure.
    """
    inputs = list(named_inputs(model, args, kwargs))
    numbers = leading(inputs, lead)
    features = {name: t for name, t in inputs if t.shape[:1] == numbers.shape}
    floating = [name for name, tensor in features.items() if is_continuous(tensor)]
    kinds = [
        name
        for name, tensor in features.items()
        if not is_continuous(tensor) and not (tensor.ndim == 1 and torch.equal(tensor, numbers))
    ]
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(cast(tensor, dtype), copy=True)
        wanted = noise and is_continuous(tensor) and tensor.ndim and alike(tensor)
        return noisy(tensor, generator) if wanted else tensor

    drawn = map_inputs(draw, model, args, kwargs)
    return Graphs(drawn, frozenset(floating or kinds), graphs_in(numbers), numbers)
