"""Find which dimensions of a state are positions, from the operators that read and made it.

Shapes do not tell: (B, T, C) and (B, C, T) look alike. A convolution over a state tells, a layer
norm, a product with weights. Operators that keep the dimensions (an activation, a residual sum)
pass the question on to their result. What made a state is asked in the same way, from the other
side; if the two contradict each other, the positions are unknown.
"""

from collections import defaultdict
from collections.abc import Generator

from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._positions import Positions
from manifold_mixup._structure.grids import Grids
from manifold_mixup._structure.kinds import (
    DimensionKinds,
    Kind,
    Span,
    kinds_of_operand,
    kinds_of_reduced,
    kinds_of_result,
)
from manifold_mixup._structure.memoized import MemoizedSearch
from manifold_mixup._structure.operators import Operator, Pairs, View
from manifold_mixup._structure.recorded import Leaf, Trace

_Kinds = dict[int, Kind | None]


class PositionFinder:
    """Finds the positions of the tensors of a recorded pass.

    Args:
        trace: the recording.
        colours: for each node, a number that is 0 if it depends on no input.
    """

    def __init__(self, trace: Trace, colours: list[int]) -> None:
        self.nodes, self.colours = trace.nodes, colours
        self.readers: dict[int, list[tuple[Operator, int]]] = defaultdict(list)
        self.makers: dict[int, tuple[Operator, View]] = {}
        for op in trace.operators:
            for number, read in enumerate(op.reads):
                self.readers[read.node].append((op, number))
            self.makers.update((made.node, (op, made)) for made in op.made)
        self._after = MemoizedSearch(self._ask_readers)
        self._before = MemoizedSearch(self._ask_maker)
        self._weights = MemoizedSearch(self._ask_weight)
        self._grids = Grids(trace, self.makers, colours)
        self._found: dict[tuple[View, BatchDim], Positions | None] = {}

    def of(self, leaf: Leaf, batch: BatchDim | None) -> Positions | None:
        """Return the positions of a tensor; None if they cannot be told.

        Args:
            leaf: the tensor.
            batch: where it holds the batch; None if that is unknown.
        """
        if leaf.view is None or batch is None:
            return None
        key = leaf.view, batch
        if key not in self._found:
            self._found[key] = self._find(leaf.view, batch)
        return self._found[key]

    def _find(self, view: View, batch: BatchDim) -> Positions | None:
        kinds = self._kinds(view, batch.dim)
        if kinds is None:
            return None
        dims = tuple(sorted(dim for dim, kind in kinds.items() if _is_placed(kind)))
        if len(dims) != 1:
            return Positions(dims)
        grid = self._grids.of(view, dims[0])
        if grid is None:
            return None
        return Positions(dims, grid.sides or None, grid.first)

    def _kinds(self, view: View, batch: int) -> _Kinds | None:
        """Return what the dimensions other than the batch are; None if that is unknown."""
        others = [dim for dim, n in enumerate(view.shape) if dim != batch and n > 1]
        if not others:
            return {}
        after, before = self._after(view), self._before(view.node)
        found = [
            _kinds_of(each, view, batch, others) for each in (after, before) if each is not None
        ]
        if len(found) == 2 and _contradict(*found) and not (after and after.weak):
            return None
        found = [kinds for kinds in found if all(_is_known(kind) for kind in kinds.values())]
        return (found[-1] if after and after.weak else found[0]) if found else None

    def _ask_readers(
        self, view: View
    ) -> Generator[View, DimensionKinds | None, DimensionKinds | None]:
        """Find what the operators that read a value tell about it, the first of them first."""
        weak = None
        for op, number in self.readers.get(view.node, ()):
            weights = op.product and self._weights(op.reads[-1].node)
            kinds = kinds_of_operand(op, number, weights=weights)
            if kinds is None or not kinds.known_for_all(view):
                kinds = yield from self._ask_result(op, number)
            if kinds is not None and kinds.known_for_all(view):
                if not kinds.weak:
                    return kinds
                weak = weak or kinds
        return weak

    def _ask_result(
        self, op: Operator, number: int
    ) -> Generator[View, DimensionKinds | None, DimensionKinds | None]:
        """Find what is told about an operand by those who read the result."""
        if op.reduces and number == 0:
            return kinds_of_reduced(op, (yield op.made[0]))
        if op.keeps:
            for made in op.made:
                pairs = op.pairs(number, made)
                kinds = (yield made) if pairs else None
                if kinds is not None:
                    back = tuple((dim, to) for dim, to in pairs)
                    return kinds.mapped(made, op.reads[number], back)
        return None

    def _ask_maker(self, node: int) -> Generator[int, DimensionKinds | None, DimensionKinds | None]:
        """Find what the operator that made a value tells about it."""
        if node not in self.makers:
            return None
        op, made = self.makers[node]
        kinds = kinds_of_result(op, made)
        if kinds is not None:
            return kinds
        weighing = op.product and self._weights(op.reads[-1].node)
        if weighing or op.normalized == 1:
            number = len(op.reads) - 2 if op.product else 0
            earlier = yield op.reads[number].node
            pairs = tuple(pair for pair in op.pairs(number, made) if pair[1] < len(made.shape) - 1)
            return _channels_last(earlier, op.reads[number], made, pairs)
        for number, read in enumerate(op.reads):
            if self.colours[read.node] and (op.keeps or op.reduces):
                earlier = yield read.node
                pairs = tuple((to, dim) for dim, to in op.pairs(number, made))
                kinds = earlier and earlier.mapped(read, made, pairs)
                if kinds and kinds.known_for_all(made):
                    return kinds
        return None

    def _ask_weight(self, node: int) -> Generator[int, bool, bool]:
        """Find whether a value is a parameter, or made of some without inputs."""
        if self.nodes[node].learned:
            return True
        if not self.colours[node]:
            for parent in self.nodes[node].parents:
                if (yield parent):
                    return True
        return False


def _channels_last(
    earlier: DimensionKinds | None, read: View, made: View, pairs: Pairs
) -> DimensionKinds:
    """Return that the last dimension of a result is its channels, and the others as before."""
    if 0 in made.shape:
        return DimensionKinds((), Kind.OTHER)
    back = tuple((to, dim) for dim, to in pairs)
    spans = list(earlier.mapped(read, made, back).spans) if earlier else []
    for dim in made.dims:
        low, high = made.span(dim)
        if dim == len(made.shape) - 1:
            spans.append(Span(low, high, Kind.CHANNEL))
        elif not any(span.low < high and low < span.high for span in spans):
            spans.append(Span(low, high, Kind.OTHER))
    return DimensionKinds(tuple(spans), Kind.OTHER)


def _kinds_of(kinds: DimensionKinds, view: View, batch: int, others: list[int]) -> _Kinds:
    """Return what is told about some dimensions of a view; nothing if the batch seems channels."""
    if view.shape[batch] > 1 and kinds.kind(view, batch) is Kind.CHANNEL:
        return dict.fromkeys(others)
    return {dim: kinds.kind(view, dim) if view.stride[dim] else None for dim in others}


def _contradict(one: _Kinds, other: _Kinds) -> bool:
    both = [(one[dim], other[dim]) for dim in one]
    return any({Kind.CHANNEL} < {a, b} and (_is_placed(a) or _is_placed(b)) for a, b in both)


def _is_placed(kind: Kind | None) -> bool:
    return kind is not None and kind.placed


def _is_known(kind: Kind | None) -> bool:
    return kind is Kind.CHANNEL or _is_placed(kind)
