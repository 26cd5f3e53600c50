"""Find what is added to attention scores: masks and biases, which are no states.

A bias of minus infinity switches a position off. Interpolated with one that leaves it on, it is
still minus infinity, so that an example mixed with another would lose the positions of both.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

from manifold_mixup._structure.memoized import MemoizedSearch
from manifold_mixup._structure.recorded import Node

_SCALES = {"mul", "mul_", "div", "div_"}
_SUMS = {"add", "add_", "where", "masked_fill", "masked_fill_"}
_SOFTMAX = {"_softmax", "_safe_softmax"}
# Stages of a value on its way: on its own, added to scores, and through a softmax.
_ALONE, _ADDED, _WEIGHTS = range(3)


class _Step(NamedTuple):
    """A value, a value computed from it, and the stage of the first."""

    value: int
    into: int
    stage: int


class Biases:
    """The attention of a recorded pass, written with operators or as one fused operator.

    Args:
        nodes: the values.
        readers: for each, the values that are computed from it, in order.
        weights: for each, whether it is a parameter, or made of some.
    """

    def __init__(
        self, nodes: Sequence[Node], readers: Sequence[Sequence[int]], weights: Sequence[bool]
    ) -> None:
        self._nodes, self._readers, self._weights = nodes, readers, weights
        self._find = MemoizedSearch(self._search)  # a loop over time has long ways, and many

    def receive(self, number: int, reader: int) -> bool:
        """Return whether a value becomes a bias of attention through one of its readers.

        The way to a bias has no product: what a layer makes of a value is a state.
        """
        return self._find(_Step(number, reader, _ALONE))

    def _search(self, step: _Step) -> Generator[_Step, bool, bool]:
        """Ask whether a value, at a stage of its way, becomes a bias through a reader."""
        value, into, stage = step
        if into >= len(self._nodes):
            return False
        node = self._nodes[into]
        if value in node.biases or (stage == _WEIGHTS and node.product):
            return True
        added = node.operator == "baddbmm" and node.parents[0] == value
        if (node.product and not added) or "attention" in node.operator:
            return False
        after = self._stage(value, node, stage)
        for later in self._readers[into]:
            if (yield _Step(into, later, after)):
                return True
        return False

    def _stage(self, value: int, node: Node, stage: int) -> int:
        if stage == _ADDED and node.operator in _SOFTMAX:
            return _WEIGHTS
        if stage == _ALONE and node.operator == "baddbmm":
            return _ADDED
        others = [parent for parent in node.parents if parent != value]
        if stage == _ALONE and node.operator in _SUMS and any(map(self._are_scores, others)):
            return _ADDED
        return stage

    def _are_scores(self, number: int) -> bool:
        """Return whether a value is a product of two states, perhaps scaled."""
        node = self._nodes[number]
        while len(node.parents) == 1 and (node.kind == "move" or node.operator in _SCALES):
            node = self._nodes[node.parents[0]]
        return node.product and not any(self._weights[parent] for parent in node.parents)
