"""Find the modules that read a mask after a layer, so that they can receive the mixed mask."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from manifold_mixup._batch_dim import find
from manifold_mixup._structure.flow import Flow, data_sources, side_colour
from manifold_mixup._structure.masked_scores import MaskedScores
from manifold_mixup._structure.recorded import Call, Leaf, Trace
from manifold_mixup._structure.row import Reader

_SCALES = {"mul", "mul_", "div", "div_"}


class MaskReaders:
    """The modules that receive a mask, each described once for all layers.

    Args:
        source: index of the mask among the inputs.
        first: the recorded pass.
        second: the recording with another batch size, if there is one.
        flow: the flow of the first recording.
    """

    def __init__(self, source: int, first: Trace, second: Trace | None, flow: Flow) -> None:
        self._source, self._first, self._second, self._flow = source, first, second, flow
        masks = ((index, _of_source(call, source, flow)) for index, call in enumerate(first.calls))
        self._masks = {index: leaves for index, leaves in masks if leaves}
        self._described: dict[int, tuple[list[tuple[Reader, int]], str]] = {}

    def after(self, steps: int, *, checkpointed: bool) -> tuple[dict[Reader, list[int]], str]:
        """List the outermost modules that begin after a layer and receive the mask.

        Args:
            steps: number of operators run when the layer ended.
            checkpointed: whether an activation checkpoint recomputes the layer.

        Returns:
            The readers with the nodes they receive, and the reason why these cannot be mixed (empty
            if they can).
        """
        calls = self._first.calls
        after = {index for index in self._masks if calls[index].steps >= steps}
        found: dict[Reader, list[int]] = {}
        for index in sorted(after):
            if not after.isdisjoint(calls[index].enclosing_calls):
                continue
            readers, fault = self._of_call(index)
            if fault:
                return {}, fault
            for reader, node in readers:
                found.setdefault(reader, []).append(node)
        before = {call.layer for call in calls if call.steps < steps}
        early = {reader.layer for reader in found} & before
        again = {run.layer for run in self._first.runs if run.checkpointed}
        if early and (checkpointed or early & again):
            return {}, f", by {min(early)!r}, which also runs before it, in a checkpoint"
        found = {replace(reader, early=reader.layer in early): ns for reader, ns in found.items()}
        return found, ""

    def _of_call(self, index: int) -> tuple[list[tuple[Reader, int]], str]:
        """Describe what a call reads, or return why that cannot be mixed."""
        if index not in self._described:
            self._described[index] = self._describe(index)
        return self._described[index]

    def _describe(self, index: int) -> tuple[list[tuple[Reader, int]], str]:
        call, masks = self._first.calls[index], self._masks[index]
        boolean = all(leaf.boolean for leaf in masks)
        scores = MaskedScores(call, self._source, self._flow, boolean=boolean)
        if scores.fault:
            return [], f", by {call.layer!r}, which {scores.fault}"
        positions = self._first.inputs[self._source].shape[-1]
        found = []
        for leaf in masks:
            dim = _batch_dim(leaf, index, self._first, self._second)
            if fault := _fault(call, leaf, positions, dim, forbids=scores.forbids):
                return [], fault
            pools = _pools(call, positions, _results(index, self._first, self._second))
            reader = Reader(
                call.layer,
                leaf.path,
                pools,
                weighs=pools or _only_multiplies(call, leaf, self._flow),
                forbids=scores.forbids,
                batch_dim=dim,
            )
            found.append((reader, leaf.node))
        return found, ""


def _of_source(call: Call, source: int, flow: Flow) -> list[Leaf]:
    return [
        leaf
        for leaf in call.masks
        if flow.needed[leaf.node] and flow.colours[leaf.node] == side_colour(source)
    ]


def _pools(call: Call, positions: int, results: Iterable[tuple[int, ...]]) -> bool:
    """Return whether no result of a call has positions at dimension 1.

    If there are as many features as positions, a result without further dimensions has features.
    """
    states = [leaf.shape for leaf in call.given if leaf.floating and len(leaf.shape) > 2]
    alike = any(positions in shape[2:] for shape in states)
    return all(shape[1:2] != (positions,) or (alike and len(shape) == 2) for shape in results)


def _only_multiplies(call: Call, leaf: Leaf, flow: Flow) -> bool:
    """Return whether a module reads a mask only to multiply states by it, or to divide them."""
    derived, met = {leaf.node}, set()
    for number in range(call.first, min(call.last, len(flow.nodes))):
        node = flow.nodes[number]
        if derived.isdisjoint(node.parents):
            continue
        if data_sources(flow.colours[number]):
            met.add(node.operator)
        else:
            derived.add(number)
    return bool(met) and met <= _SCALES


def _results(index: int, first: Trace, second: Trace | None) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of the states that a call returns, with the batch in front."""
    same = second if second and len(second.calls) == len(first.calls) else None
    others = {leaf.path: leaf.shape for leaf in same.calls[index].returned} if same else {}
    for leaf in first.calls[index].returned:
        if leaf.floating:
            resized = others.get(leaf.path, leaf.shape)
            at = find(leaf.shape, first.batch, resized, same.batch) if same else None
            yield at.front_shape(leaf.shape, first.batch) if at else leaf.shape


def _batch_dim(leaf: Leaf, index: int, first: Trace, second: Trace | None) -> int:
    """Return the dimension of an argument that holds the batch; -1 if it is not exactly one."""
    others = second.calls[index].masks if second and len(second.calls) == len(first.calls) else []
    other = next((other for other in others if other.path == leaf.path), leaf)
    if second is None or other is leaf:
        return 0 if leaf.shape[0] == first.batch else -1
    if len(other.shape) != len(leaf.shape):
        return -1
    sizes = enumerate(zip(leaf.shape, other.shape, strict=True))
    moved = [dim for dim, (one, two) in sizes if one != two]
    whole = [
        dim for dim in moved if (leaf.shape[dim], other.shape[dim]) == (first.batch, second.batch)
    ]
    return moved[0] if len(moved) == len(whole) == 1 else -1


def _fault(call: Call, leaf: Leaf, positions: int, batch_dim: int, *, forbids: bool) -> str:
    """Return why the mask that a module receives cannot be mixed; empty if it can."""
    given = f", by {call.layer!r}, which receives it with shape {leaf.shape}"
    if positions not in (leaf.shape[-1:] + leaf.shape[1:2]):
        return f"{given}: its {positions} positions are neither dimension 1 nor the last"
    if batch_dim < 0 or (batch_dim > 0 and not forbids):
        return f"{given}: dimension 0 is not the batch"
    return ""
