"""Operators by which rows of a batch may interact: they combine values along the batch.

Two recordings with two batch sizes list the lengths along which each operator combines values. A
length that grows belongs to the batch; positions, channels and time steps stay. This is only a
suspicion (a batch may be packed into one sequence with a mask between its examples), so a numerical
check decides: see `manifold_mixup._proof.independence`.
"""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Named = dict[str, Any]


@dataclass(frozen=True)
class Interaction:
    """An operator that combines values.

    Attributes:
        operator: its name.
        lengths: lengths of the dimensions along which it combines values.
        pairs: whether it combines all values of one dimension with all of another, so that rows
            interact only if both lengths grow.
        reorders: whether it reorders the rows of dimension 0.
        node: the node of its result.
    """

    operator: str
    lengths: tuple[int, ...]
    pairs: bool = False
    reorders: bool = False
    node: int = -1


@functools.cache
def can_interact(name: str) -> bool:
    """Return whether an operator may combine values."""
    known = (_ALONG, _CHOOSE, _SCATTER, _MATRICES)
    if any(name in names for names in known) or _SLIDES.search(name):
        return True
    return "scaled_dot_product" in name or "rnn" in name


def interaction(
    name: str, named: Named, result: Any, known: Callable[[Tensor], bool]
) -> Interaction | None:
    """Describe how an operator combines values; None if it treats each value separately.

    Args:
        name: name of the operator.
        named: its arguments by name.
        result: its result.
        known: returns whether an index is a range, which keeps the order.
    """
    if name in _ALONG:
        return _along(name, named["self"], named[_ALONG[name]])
    if "scaled_dot_product" in name:
        return Interaction(name, (named["query"].shape[-2], named["key"].shape[-2]))
    if name in _MATRICES:
        return Interaction(name, tuple(result.shape[-2:]), pairs=True)
    if "rnn" in name and "input" in named and isinstance(named["input"], Tensor):
        return Interaction(name, (named["input"].shape[1 if named.get("batch_first") else 0],))
    if name in _CHOOSE or name in _SCATTER:
        return _choosing(name, named, known)
    return _spatial(name, named)


def _along(name: str, tensor: Tensor, dims: Any) -> Interaction | None:
    if not tensor.ndim:
        return None
    dims = [dims] if isinstance(dims, int) else list(dims or range(tensor.ndim))
    whole = name in ("flip", "roll") and 0 in [dim % tensor.ndim for dim in dims]
    return Interaction(name, tuple(tensor.shape[dim] for dim in dims), reorders=whole)


def _choosing(name: str, named: Named, known: Callable[[Tensor], bool]) -> Interaction | None:
    """Describe an operator that gathers or scatters rows by an index."""
    tensor = named["self"]
    if "dim" in named:
        index = named["index"]
        if tensor.ndim == 0 or named["dim"] % tensor.ndim or known(index):
            return None
        whole = name in ("index_select", "gather")
        return Interaction(name, tuple(tensor.shape[:1]), reorders=whole)
    indices = named["indices"]
    first = indices[0] if indices else None
    if first is None or known(first):
        return None
    alone = sum(index is not None for index in indices) == 1 and first.ndim == 1
    return Interaction(name, tuple(tensor.shape[:1]), reorders=alone and first.dtype.itemsize > 1)


def _spatial(name: str, named: Named) -> Interaction | None:
    """Describe an operator that slides over the last dimensions of its input."""
    if not _SLIDES.search(name):
        return None
    tensor = named.get("input", named.get("self"))
    if not isinstance(tensor, Tensor):
        return None
    found = re.search(r"([123])d", name)
    count = int(found[1]) if found else tensor.ndim - 2
    return Interaction(name, tuple(tensor.shape[tensor.ndim - count :]))


def interacting_operators(
    first: Sequence[Interaction], second: Sequence[Interaction], counts: tuple[int, int]
) -> Iterable[str]:
    """Name the operators by which rows of the batch may interact.

    Args:
        first: the combining operators of a recording whose results reach an output.
        second: the same for a recording with another batch size.
        counts: the number of all operators in each recording.
    """
    if counts[0] != counts[1] or len(first) != len(second):
        yield "a loop over dimension 0"
        return
    for one, other in zip(first, second, strict=True):
        grown = [a != b for a, b in zip(one.lengths, other.lengths, strict=False)]
        if all(grown) if one.pairs else any(grown):
            yield f"the operator {one.operator!r}, which combines rows of dimension 0"


# Operators that combine values along a dimension, and the argument that names it.
_ALONG = {
    **dict.fromkeys(
        ("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp"), "dim"
    ),
    **dict.fromkeys(
        ("cummax", "cummin", "sort", "topk", "_fft_r2c", "_fft_c2c", "_fft_c2r"), "dim"
    ),
    **dict.fromkeys(("flip", "roll"), "dims"),
}
_MATRICES = {"mm", "bmm", "addmm", "baddbmm"}
_CHOOSE = {"index", "index_select", "gather"}
_SCATTER = {
    f"{name}{ending}"
    for name in ("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_put")
    for ending in ("", "_")
}
_SLIDES = re.compile(
    r"convolution|conv[123]d|max_pool|avg_pool|upsample|grid_sampler|im2col|unfold"
)
