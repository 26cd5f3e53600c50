"""Find the grid of patches that the tokens of a state were made of.

The positions of the tokens are followed back through the operators that keep them, each token at
its own place: sums, norms, products with weights, attention's queries. The search ends at the
operator that made them in a grid, such as a convolution. Whatever reorders or merges tokens in a
way that is not followed ends it without an answer, so that no grid is wrong.
"""

import functools
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from manifold_mixup._structure.memoized import MemoizedSearch
from manifold_mixup._structure.operators import Operator, View
from manifold_mixup._structure.recorded import Trace


@dataclass(frozen=True)
class Grid:
    """Where tokens come from.

    Attributes:
        sides: the sides of the grid that the patches form; empty if they were never in a grid.
        first: the number of tokens before the patches.
    """

    sides: tuple[int, ...] = ()
    first: int = 0

    def part(self, start: int, count: int) -> "Grid | None":
        """Return the same for some of the tokens; None if patches are missing."""
        end = self.first + math.prod(self.sides)
        if not self.sides:
            return self
        whole = start <= self.first and end <= start + count
        return replace(self, first=self.first - start) if whole else None


class Tokens(NamedTuple):
    """The tokens of a view: a part of its memory from one stride to a longer one."""

    view: View
    low: int
    high: int


_Search = Generator[Tokens, Grid | None, Grid | None]


class Grids:
    """The grids of the tokens of a recorded pass.

    Args:
        trace: the recording.
        makers: the operator that made each node, and the result that is the node.
        colours: for each node, a number that is 0 if it depends on no input.
    """

    def __init__(
        self, trace: Trace, makers: Mapping[int, tuple[Operator, View]], colours: list[int]
    ) -> None:
        self.trace, self.makers, self.colours = trace, makers, colours
        self._inputs = {leaf.node: leaf for leaf in trace.inputs}
        self._find = MemoizedSearch(self._search)

    def of(self, view: View, dim: int) -> Grid | None:
        """Return where the tokens along a dimension come from; None if that cannot be told."""
        found = self._find(Tokens(view, *view.span(dim)))
        return Grid() if found is None and not self._after_grid[view.node] else found

    @functools.cached_property
    def _after_grid(self) -> list[bool]:
        """Whether each node depends on anything that has a grid."""
        found: list[bool] = []
        for number, node in enumerate(self.trace.nodes):
            leaf = self._inputs.get(number)
            own = len(leaf.shape) > 3 if leaf else self._is_grid(number)
            unknown = node.kind == "unseen" or (node.parents and number not in self.makers)
            found.append(own or bool(unknown) or any(found[parent] for parent in node.parents))
        return found

    def _is_grid(self, node: int) -> bool:
        if node not in self.makers:
            return False
        op, made = self.makers[node]
        return bool(op.spatial) and sum(n > 1 for n in made.shape[2:]) > 1

    def _search(self, tokens: Tokens) -> _Search:
        node = tokens.view.node
        if not self.colours[node]:
            return Grid()  # learned tokens
        if node not in self.makers:
            return self._of_input(tokens)
        op, made = self.makers[node]
        if op.reorders:
            return None
        if taken := _taken(made, tokens):
            whole = yield Tokens(made, *made.span(taken.dim))
            return whole and whole.part(taken.start, taken.count)
        dims = _covered(made, tokens)
        if op.spatial:
            return (yield from self._of_convolution(op, made, dims))
        if op.name == "cat" and op.along and dims == [op.along[0] % len(made.shape)]:
            return (yield from self._of_joined(op, dims[0]))
        return (yield from self._of_operands(op, made, tokens))

    def _of_input(self, tokens: Tokens) -> Grid | None:
        leaf = self._inputs.get(tokens.view.node)
        if leaf is None or leaf.view is None:
            return None
        dims = _covered(leaf.view, tokens)
        return Grid() if len(dims) == 1 else None

    def _of_convolution(self, op: Operator, made: View, dims: list[int]) -> _Search:
        """Ask about the result of a convolution, a pooling or similar."""
        sides = range(len(made.shape) - op.spatial, len(made.shape))
        long = [dim for dim in sides if made.shape[dim] > 1]
        if len(long) > 1:
            if dims == long:
                return Grid(tuple(made.shape[dim] for dim in dims))
            return Grid() if len(dims) == 1 and dims[0] in long else None
        if not dims or dims != long:  # none if the tokens are a part of the batch dimension
            return None
        read = op.reads[0]
        if not self.colours[read.node] or dims[0] not in read.dims:
            return None
        earlier = yield Tokens(read, *read.span(dims[0]))
        return earlier if earlier is not None and not earlier.sides else None

    def _of_joined(self, op: Operator, dim: int) -> _Search:
        """Ask about the tensors whose tokens were joined: one of them may have patches."""
        found, first, before = Grid(), 0, 0
        for read in op.reads:
            count = read.shape[dim] if len(read.shape) > dim else 0
            if self.colours[read.node] and count > 1:
                part = yield Tokens(read, *read.span(dim))
                if part is None or (found.sides and part.sides):
                    return None
                if part.sides:
                    found, first = part, before
            before += count
        tokens = [r for r in op.reads if self.colours[r.node] and r.shape[dim] > 1]
        if found.sides and len(tokens) > 1:
            return None  # tokens of another kind
        return replace(found, first=found.first + first) if found.sides else found

    def _of_operands(self, op: Operator, made: View, tokens: Tokens) -> _Search:
        """Ask about the operands that have the same tokens, which must not have two grids."""
        answers = []
        for number, read in enumerate(op.reads):
            back = {to: dim for dim, to in op.pairs(number, made)}
            parts = _parts(made, tokens, read, back) if self.colours[read.node] else []
            if not parts:
                continue
            if all(outer[0] == inner[1] for outer, inner in pairwise(parts)):
                answers.append((yield Tokens(read, parts[-1][0], parts[0][1])))
            else:
                answers.append(self._of_patches(read.node, parts))
        grids = {answer for answer in answers if answer is not None and answer.sides}
        if grids:
            return grids.pop() if len(grids) == 1 else None
        return Grid() if answers and None not in answers else None

    def _of_patches(self, node: int, parts: list[tuple[int, int]]) -> Grid | None:
        """Return the grid of patches that were cut out of an image by reshaping it."""
        leaf = self._inputs.get(node)
        if leaf is None or leaf.view is None or len(leaf.shape) != len(parts) + 2:
            return None
        cut = [_divided(leaf.view, *part) for part in parts]
        if 0 in cut or cut != sorted({dim for dim in cut if dim is not None}):
            return None
        return Grid(tuple(high // low for low, high in parts))


@dataclass(frozen=True)
class _Taken:
    """Some of the tokens along a dimension."""

    dim: int
    start: int
    count: int


def _taken(made: View, tokens: Tokens) -> _Taken | None:
    """Return which tokens of a value a view of it took; None if it took all."""
    view, low, high = tokens
    for dim in made.dims:
        stride, end = made.span(dim)
        if stride == low and low < high < end:
            spans = map(view.span, view.dims)
            if any(max(one, high) < min(other, end) for one, other in spans):
                return None  # they are divided into several dimensions, and all there
            return _Taken(dim, (view.start - made.start) // stride % made.shape[dim], high // low)
    return None


def _covered(made: View, tokens: Tokens) -> list[int]:
    """Return the dimensions that are the tokens exactly, the outermost first; empty if none are."""
    spans = {dim: made.span(dim) for dim in made.dims}
    inside = [dim for dim, (low, high) in spans.items() if tokens.low <= low < tokens.high >= high]
    ends = [tokens.high, *(spans[dim][0] for dim in inside)]
    return inside if ends == [*(spans[dim][1] for dim in inside), tokens.low] else []


def _parts(
    made: View, tokens: Tokens, read: View, back: Mapping[int, int]
) -> list[tuple[int, int]]:
    """Return where an operand holds the tokens of a result; empty if it does not.

    Args:
        made: the result.
        tokens: its tokens.
        read: the operand.
        back: for dimensions of the result, the dimension of the operand.
    """
    parts, reached = [], tokens.high
    for to in made.dims:
        stride, end = made.span(to)
        low, high = max(stride, tokens.low), min(end, tokens.high)
        if low >= high:
            continue
        dim = back.get(to)
        if dim is None or read.shape[dim] != made.shape[to] or not read.stride[dim]:
            return []
        if high != reached or low % stride or high % stride:
            return []
        parts.append((low // stride * read.stride[dim], high // stride * read.stride[dim]))
        reached = low
    return parts if reached == tokens.low else []


def _divided(image: View, low: int, high: int) -> int | None:
    """Return the dimension of an image of which a part of its memory is a coarser division."""
    for dim in image.dims:
        stride, end = image.span(dim)
        if stride < low and high == end:
            return dim
    return None
