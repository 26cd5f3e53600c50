"""Notice losses of a mixed pass that no wrapped criterion computed, beside one that did.

Their targets are not mixed. Terms without targets, such as a penalty of the output's size, may be
there. What operators kept is gone when backward reaches the model, so only kinds and shapes tell.
"""

import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifold_mixup import _autograd
from manifold_mixup._callers import callers


class Around(NamedTuple):
    """A mixed pass, and the losses of it that wrapped criteria computed.

    Attributes:
        batch: the number of examples.
        dim: the dimension of outputs and targets that holds them.
        made: returns whether any pass of the model made the node with this number.
        begin: the first number of the pass.
        mixed: the numbers of its nodes since the state was mixed, from, and up to.
        losses: the numbers of the nodes that wrapped criteria made, each from, and up to.
        refused: the numbers of nodes at which backward raises, because no targets were mixed.
    """

    batch: int
    dim: int
    made: Callable[[int], bool]
    begin: int
    mixed: tuple[int, int]
    losses: Sequence[tuple[int, int]]
    refused: Container[int]

    def is_mixed(self, node: Any) -> bool:
        """Return whether the pass made a node after its state was mixed."""
        number = int(node._sequence_nr())
        return self.mixed[0] <= number < self.mixed[1] and number not in self.refused

    def of_loss(self, node: Any) -> bool:
        """Return whether a wrapped criterion made a node."""
        number = int(node._sequence_nr())
        return any(begin <= number < end for begin, end in self.losses)

    def has_rows(self, node: Any) -> bool:
        """Return whether the result of a node has a row for each example."""
        shape = node._input_metadata[0].shape
        dim = self.dim if len(shape) > self.dim else 0
        return len(shape) > 0 and bool(shape[dim] == self.batch)


def running_losses() -> list[Tensor]:
    """List the tensors whose backward pass runs; none if it is not known which it is."""
    frames = [frame for frame in callers() if frame.f_code is _BACKWARD][:1]
    if not frames:  # the nodes of another device run in a thread of their own
        frames = [frame for frame in _in_all_threads() if frame.f_code is _BACKWARD]
    given: Any = frames[0].f_locals.get("tensors", ()) if len(frames) == 1 else ()
    tensors = [given] if isinstance(given, Tensor) else given
    return [one for one in tensors if isinstance(one, Tensor) and one.grad_fn is not None]


_BACKWARD = torch.autograd.backward.__code__


def _in_all_threads() -> Iterator[FrameType]:
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            yield frame
            frame = frame.f_back


def other_loss(losses: Iterable[Tensor], around: Around) -> str:
    """Return an operator of a loss that no wrapped criterion computed; empty if none is seen.

    Args:
        losses: the tensors whose backward pass runs.
        around: the mixed pass that it reaches.
    """
    # A node of the user's, or of another library, may not tell the shape of its result.
    with suppress(RuntimeError, NotImplementedError, AttributeError, IndexError):
        return _other_loss([one.grad_fn for one in losses], around)
    return ""


def _other_loss(roots: list[Any], around: Around) -> str:
    nodes = _outside(roots, around)
    of_pass, of_loss = _leading(nodes, around.is_mixed), _leading(nodes, around.of_loss)
    term = [node for node in of_pass if node not in of_loss]
    beside = [node for node in _before(term) if node in nodes and node not in of_pass]
    for node in (*term, *beside):
        if _takes_targets(node, around) or (
            node.name() in _autograd.LOOKUPS and node not in of_pass
        ):
            return str(node.name())
    return ""


def _outside(roots: Iterable[Any], around: Around) -> dict[Any, None]:
    """Return the nodes between losses and a pass that no wrapped criterion made."""

    def outside(node: Any) -> bool:
        number = int(node._sequence_nr())
        if number < around.begin or node.name() == _autograd.LEAF:
            return False
        return not (around.made(number) or around.of_loss(node))

    return _before(list(roots), outside)


def _before(nodes: Sequence[Any], inside: Callable[[Any], bool] | None = None) -> dict[Any, None]:
    """Return some nodes and those that they were computed from, as far as they are inside."""
    found = {node: None for node in nodes if inside is None or inside(node)}
    stack = list(found)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in found and (inside is None or inside(node)):
                found[node] = None
                stack.append(node)
    return found


def _leading(nodes: Iterable[Any], end: Callable[[Any], bool]) -> set[Any]:
    """Return those of some nodes from which others can be reached."""
    found: set[Any] = set()
    for node in sorted(nodes, key=lambda node: int(node._sequence_nr())):  # operands come first
        operands = [before for before, _ in node.next_functions if before is not None]
        if any(before in found or end(before) for before in operands):
            found.add(node)
    return found


def _takes_targets(node: Any, around: Around) -> bool:
    """Return whether an operator compares the output with targets, which have no gradient."""
    kind, operands = node.name(), [before for before, _ in node.next_functions]
    if kind in _LOSSES:
        return len(operands) < 2 or operands[1] is None
    if kind in ("MulBackward0", "SubBackward0") and _with_constant(operands, _LOGARITHMS):
        return around.has_rows(node)  # soft labels, as those of a teacher
    if kind in ("AbsBackward0", "PowBackward0") and operands[0] is not None:
        change = operands[0]
        before = [one for one, _ in change.next_functions]
        compares = change.name() == "SubBackward0" and _with_constant(before)
        reduced = any(one is not None and one.name() in _SIZES for one in before)
        return compares and not reduced and around.has_rows(change)
    return bool(kind == "GatherBackward0") and around.has_rows(node)


def _with_constant(operands: Sequence[Any], kinds: Sequence[str] = ()) -> bool:
    """Return whether one of two operands is a constant, and the other of one of some kinds."""
    others = [one for one in operands if one is not None]
    return len(others) == 1 < len(operands) and (not kinds or others[0].name() in kinds)


_LOSSES = {
    "NllLossBackward0", "NllLoss2DBackward0", "MseLossBackward0", "SmoothL1LossBackward0",
    "HuberLossBackward0", "BinaryCrossEntropyBackward0", "BinaryCrossEntropyWithLogitsBackward0",
    "SoftMarginLossBackward0", "MultiMarginLossBackward0", "MultilabelMarginLossBackward0",
    "CtcLossBackward0", "CtcLossBackward1", "CudnnCtcLossBackward0", "CudnnCtcLossBackward1",
}  # fmt: skip
_LOGARITHMS = ("LogSoftmaxBackward0", "LogSigmoidBackward0", "LogBackward0")
_SIZES = ("LinalgVectorNormBackward0", "NormBackward1", "SumBackward1", "MeanBackward1")
