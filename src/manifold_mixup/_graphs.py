"""Batches of graphs: the input that numbers the graph of each node.

Many graphs are batched as one large graph, whose parts are not connected. Dimension 0 of the inputs
counts nodes, and an integer for each node says to which graph it belongs: 0, 0, 0, 1, 1, 2, ...
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def graphs_in(numbers: Tensor) -> int:
    """Return how many graphs there are, given the graph of each node; this waits for the device."""
    return int(numbers.max()) + 1 if numbers.numel() else 0


def numberings(inputs: Sequence[tuple[str, Tensor]]) -> list[str]:
    """Name the inputs that may hold the graph of each node.

    Such an input is a vector of integers that never decrease, from 0 to less than its length. There
    is another input with a row for each node.

    Args:
        inputs: names and tensors.
    """
    lengths = [tensor.shape[0] for _, tensor in inputs if tensor.ndim]
    return [
        name
        for name, tensor in inputs
        if tensor.ndim == 1 and lengths.count(len(tensor)) > 1 and _counts_up(tensor)
    ]


def _counts_up(numbers: Tensor) -> bool:
    integer = not (numbers.is_floating_point() or numbers.is_complex())
    if not integer or numbers.dtype == torch.bool or numbers.is_meta or len(numbers) < 2:
        return False
    first, last = int(numbers[0]), int(numbers[-1])
    rises = bool((numbers[1:] >= numbers[:-1]).all())
    return first == 0 and 0 < last < len(numbers) - 1 and rises
