"""What operators tell about the dimensions of a value: the batch, channels or positions.

A value is memory, and its readers see views of it: permuted, flattened, split. So what is told is
said of *spans* of the memory: the dimension of length n with stride s spans [s, s · n). The spans
of a contiguous tensor's dimensions follow each other without gaps.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from manifold_mixup._structure.operators import Operator, Pairs, View


class Kind(Enum):
    """What a dimension is."""

    BATCH = "batch"
    CHANNEL = "channel"
    POSITION = "position"
    OTHER = "batch or position"

    @property
    def placed(self) -> bool:
        """Whether it is a position, if it is not the batch."""
        return self is Kind.POSITION or self is Kind.OTHER


class Span(NamedTuple):
    """A part of a value's memory, and what it is."""

    low: int
    high: int
    kind: Kind


class DimensionKinds(NamedTuple):
    """What operators tell about the dimensions of a value.

    Attributes:
        spans: what parts of its memory are.
        rest: what the dimensions are of which the spans tell nothing; None if that is unknown.
        weak: whether a mean or a sum tells it, which has several meanings.
    """

    spans: tuple[Span, ...]
    rest: Kind | None = None
    weak: bool = False

    def kind(self, view: View, dim: int) -> Kind | None:
        """Return what a dimension of the value is; None if that is not known."""
        low, high = view.span(dim)
        kind, flattened = None, False
        for span in self.spans:
            if span.high <= low or high <= span.low:
                continue
            if kind is not None and kind is not span.kind:
                if not (kind.placed and span.kind.placed):
                    return None  # features of several positions in one dimension
                kind = Kind.POSITION
            else:
                kind = span.kind
            flattened |= span.low < low or span.high > high
        if kind is Kind.CHANNEL and flattened:
            return None  # several dimensions were flattened to features
        return kind or self.rest

    def known_for_all(self, view: View) -> bool:
        """Return whether all dimensions of the value are told."""
        return all(self.kind(view, dim) for dim in view.dims)

    def mapped(self, source: View, target: View, pairs: Pairs) -> "DimensionKinds":
        """Return the same of another value.

        Args:
            source: the value of which this is told.
            target: the other value.
            pairs: dimensions of the target, and those of the source that they are.
        """
        spans: list[Span] = []
        for to, dim in pairs:
            if source.shape[dim] > 1 and target.shape[to] > 1 and target.stride[to]:
                spans += self._within(source.span(dim), target.span(to))
        return DimensionKinds(tuple(spans), self.rest, self.weak)

    def _within(self, source: tuple[int, int], target: tuple[int, int]) -> Iterable[Span]:
        """Yield the parts of one dimension, in the scale of another."""
        (low, high), (new_low, new_high) = source, target
        for span in self.spans:
            if span.low < high and low < span.high:
                start = max(span.low, low) // low * new_low
                end = new_high if span.high >= high else span.high // low * new_low
                yield Span(start, end, span.kind)


def kinds_of(view: View, kinds: Iterable[Kind], rest: Kind | None = None) -> DimensionKinds:
    """Return what the dimensions of a view are."""
    named = list(kinds)
    return DimensionKinds(tuple(Span(*view.span(dim), named[dim]) for dim in view.dims), rest)


def kinds_of_operand(op: Operator, number: int, *, weights: bool) -> DimensionKinds | None:
    """Return what an operator alone tells about an operand; None if nothing.

    Args:
        op: the operator.
        number: the operand, as its place in the operator's ``reads``.
        weights: whether its last operand is made of parameters alone.
    """
    read = op.reads[number]
    ndim = len(read.shape)
    if op.product:
        left = number == len(op.reads) - 2 and weights
        return kinds_of(read, _channel_last(ndim), Kind.OTHER) if left else None
    if op.attends:
        return kinds_of(read, _ATTENDED) if number < 3 and ndim == len(_ATTENDED) else None
    if number:
        return None
    if op.spatial or "batch_norm" in op.name:
        return kinds_of(read, _spatial(ndim)) if 1 < ndim == op.spatial + 2 else None
    if op.recurrent or op.normalized == 1:
        return kinds_of(read, _channel_last(ndim), Kind.OTHER)
    return None


def kinds_of_result(op: Operator, made: View) -> DimensionKinds | None:
    """Return what an operator alone tells about its first result; None if nothing."""
    ndim = len(made.shape)
    if made != op.made[0]:
        return None
    if op.spatial and ndim == op.spatial + 2:
        return kinds_of(made, _spatial(ndim))
    if op.attends and ndim == len(_ATTENDED):
        return kinds_of(made, _ATTENDED)
    if op.recurrent or op.name == "embedding":
        return kinds_of(made, _channel_last(ndim), Kind.OTHER)
    return None


def kinds_of_reduced(op: Operator, result: DimensionKinds | None) -> DimensionKinds | None:
    """Return what a mean or a sum tells about its operand.

    A mean over positions leaves channels; one over channels, as in an RMS norm, leaves positions.

    Args:
        op: the operator.
        result: what is told about its result.
    """
    read, gone = op.reads[0], op.reduced()
    if not gone or not op.made:
        return None
    made, pairs = op.made[0], op.pairs(0, op.made[0])
    if result is not None:
        back = result.mapped(made, read, pairs)
        kept = [back.kind(read, to) for to, _ in pairs if read.shape[to] > 1]
        over = Kind.POSITION if Kind.CHANNEL in kept else Kind.CHANNEL
        placed = any(kind is not None and kind.placed for kind in kept)
        if over is Kind.CHANNEL and (len(gone) > 1 or not placed):
            return None
        spans = tuple(Span(*read.span(dim), over) for dim in read.dims if dim in gone)
        return DimensionKinds(back.spans + spans, back.rest, weak=True)
    if len(gone) < 2 or len(pairs) != 2:
        return None
    kinds = [Kind.POSITION if dim in gone else Kind.CHANNEL for dim in range(len(read.shape))]
    kinds[pairs[0][0]] = Kind.BATCH
    return kinds_of(read, kinds)._replace(weak=True)


_ATTENDED = (Kind.BATCH, Kind.CHANNEL, Kind.POSITION, Kind.CHANNEL)


def _channel_last(ndim: int) -> list[Kind]:
    return [Kind.OTHER] * (ndim - 1) + [Kind.CHANNEL]


def _spatial(ndim: int) -> list[Kind]:
    return [Kind.BATCH, Kind.CHANNEL, *[Kind.POSITION] * (ndim - 2)]
