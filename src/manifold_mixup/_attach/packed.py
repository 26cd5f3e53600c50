"""Packed sequences: their rows can be mixed only if all sequences are equally long.

Then each step has a row for each example. Otherwise a row's neighbour in the memory of another step
is a row of another example, and whether the number of rows is a multiple of the batch is chance.
"""

from collections.abc import Iterator
from typing import Any

from torch.nn.utils.rnn import PackedSequence

from manifold_mixup._tree import children


def require_equal_lengths(value: Any, batch: int, what: str) -> None:
    """Raise ValueError if a nested value has a packed sequence of fewer examples at the last steps.

    Args:
        value: what a module receives or returns.
        batch: the number of examples.
        what: what is said of it, a subject.
    """
    for packed in _packed_in(value):
        sizes = packed.batch_sizes
        if int(sizes[0]) != batch or int(sizes[-1]) != batch:  # they never increase
            raise ValueError(_DIFFERENT.format(what, batch, int(sizes[-1])))


def _packed_in(value: Any) -> Iterator[PackedSequence]:
    if isinstance(value, PackedSequence):
        yield value
    elif isinstance(value, tuple | list | dict):
        for _, child in children(value):
            yield from _packed_in(child)


_DIFFERENT = (
    "{} a PackedSequence of {} sequences, only {} of which have the last step: rows of sequences "
    "of different lengths have no partners. Choose a layer before the packing, or after the "
    "padding is restored. Or do not pack: before the padding, a recurrent layer that runs forward "
    "only has the same states without. For a target of each step, let the criterion ignore those "
    "of the padding. For one of the sequence, pass forward the padding mask, set mask= to its "
    "name, and take the last state by it, in a module."
)
