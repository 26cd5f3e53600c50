"""Find the modules that read a mask after a layer, so that they can receive the mixed mask."""

from collections.abc import Iterator
from dataclasses import replace

from manifold_mixup._batch_dim import find
from manifold_mixup._structure.flow import Flow, data_sources, side_colour
from manifold_mixup._structure.record import Call, Leaf, Trace
from manifold_mixup._structure.row import Reader


def readers_after(
    steps: int,
    source: int,
    first: Trace,
    second: Trace | None,
    flow: Flow,
    *,
    checkpointed: bool,
) -> tuple[dict[Reader, list[int]], str]:
    """List the outermost modules that begin after a layer and receive a mask.

    Args:
        steps: number of operators run when the layer ended.
        source: index of the mask among the inputs.
        first: the recorded pass.
        second: the recording with another batch size, if there is one.
        flow: the flow of the first recording.
        checkpointed: whether an activation checkpoint recomputes the layer.

    Returns:
        The readers with the nodes they receive, and the reason why these cannot be mixed (empty if
        they can).
    """
    masks = [_of_source(call, source, flow) for call in first.calls]
    after = [
        index for index, call in enumerate(first.calls) if call.steps >= steps and masks[index]
    ]
    outermost = [index for index in after if not set(first.calls[index].around) & set(after)]
    positions = first.inputs[source].shape[-1]
    found: dict[Reader, list[int]] = {}
    for index in outermost:
        call = first.calls[index]
        forbids = _forbids(call, source, flow)
        for leaf in masks[index]:
            if fault := _fault(call, leaf, index, first, second, positions):
                return {}, fault
            pools = all(shape[1:2] != (positions,) for shape in _results(index, first, second))
            reader = Reader(call.layer, leaf.path, pools, forbids=forbids)
            found.setdefault(reader, []).append(leaf.node)
    before = {call.layer for call in first.calls if call.steps < steps}
    early = {reader.layer for reader in found} & before
    again = {run.layer for run in first.runs if run.checkpointed}
    if early and (checkpointed or early & again):
        return {}, f", by {min(early)!r}, which also runs before it, in a checkpoint"
    return {replace(reader, early=reader.layer in early): ns for reader, ns in found.items()}, ""


_SUMS = {"add", "add_", "sub", "sub_", "baddbmm"}
_MADE_BY_FUSED = {"logical_not", "bitwise_not", "masked_fill", "masked_fill_", "where"}
# Operators between scores and their softmax.
_ON_SCORES = _SUMS | {"mul", "mul_", "div", "div_", "_unsafe_view"}
_ON_SCORES |= {"masked_fill", "masked_fill_", "where"}
_SOFTMAX = {"_softmax", "_safe_softmax", "_log_softmax", "logsumexp"}


def _forbids(call: Call, source: int, flow: Flow) -> bool:
    """Return whether a call forbids attention scores by what it computes from a mask.

    It fills scores where the mask says so, or adds to them a value computed from the mask, and each
    time a softmax follows. What is added as it is given can simply be given as weights, and fused
    attention itself makes numbers of booleans.
    """
    inside = range(call.first, min(call.last, len(flow.nodes)))
    boolean = all(leaf.boolean for leaf in _of_source(call, source, flow))
    given = _Given(inside, flow, _MADE_BY_FUSED if boolean else set())
    marked = [number for number in inside if _meets_mask(number, source, flow, given)]
    return bool(marked) and all(_is_normalised(number, inside, flow) for number in marked)


class _Given:
    """The values that a call was given, perhaps in another shape.

    Args:
        inside: the nodes that the call made.
        flow: the flow of the recording.
        made: further operators that fused attention may have run on what it was given.
    """

    def __init__(self, inside: range, flow: Flow, made: set[str]) -> None:
        self.inside, self.nodes, self.colours, self.made = inside, flow.nodes, flow.colours, made

    def __contains__(self, number: int) -> bool:
        node = self.nodes[number]
        if number not in self.inside:
            return True
        parents = [parent for parent in (*node.parents, *node.codes) if self.colours[parent]]
        return (node.kind == "move" or node.operator in self.made) and all(
            parent in self for parent in parents
        )


def _meets_mask(number: int, source: int, flow: Flow, given: _Given) -> bool:
    """Return whether a node holds states that a mask fills, or to which one is added."""
    node = flow.nodes[number]
    if not data_sources(flow.colours[number]):
        return False
    added = (*node.biases, *(node.parents if node.operator in _SUMS else ()))
    alone = side_colour(source)
    return any(flow.colours[chosen] == alone for chosen in node.conditions) or any(
        flow.colours[mask] == alone and mask not in given for mask in added
    )


def _is_normalised(number: int, inside: range, flow: Flow) -> bool:
    """Return whether a softmax reads a value, perhaps after sums and products by element."""
    if flow.nodes[number].biases:
        return True  # fused attention, with its softmax
    scores = {number}
    for later in range(number + 1, inside.stop):
        node = flow.nodes[later]
        if scores.isdisjoint(node.parents):
            continue
        if node.operator in _SOFTMAX:
            return True
        if node.operator in _ON_SCORES or node.kind == "move":
            scores.add(later)
    return False


def _of_source(call: Call, source: int, flow: Flow) -> list[Leaf]:
    return [
        leaf
        for leaf in call.masks
        if flow.needed[leaf.node] and flow.colours[leaf.node] == side_colour(source)
    ]


def _results(index: int, first: Trace, second: Trace | None) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of the states that a call returns, with the batch in front."""
    same = second if second and len(second.calls) == len(first.calls) else None
    others = {leaf.path: leaf.shape for leaf in same.calls[index].returned} if same else {}
    for leaf in first.calls[index].returned:
        if leaf.floating:
            resized = others.get(leaf.path, leaf.shape)
            at = find(leaf.shape, first.batch, resized, same.batch) if same else None
            yield at.front_shape(leaf.shape, first.batch) if at else leaf.shape


def _fault(
    call: Call, leaf: Leaf, index: int, first: Trace, second: Trace | None, positions: int
) -> str:
    """Return why the mask that a module receives cannot be mixed; empty if it can."""
    given = f", by {call.layer!r}, which receives it with shape {leaf.shape}"
    if positions not in (leaf.shape[-1:] + leaf.shape[1:2]):
        return f"{given}: its {positions} positions are neither dimension 1 nor the last"
    others = second.calls[index].masks if second and len(second.calls) == len(first.calls) else []
    other = next((other for other in others if other.path == leaf.path), leaf)
    batches = (first.batch, second.batch if second and other is not leaf else first.batch)
    if (leaf.shape[0], other.shape[0]) != batches:
        return f"{given}: dimension 0 is not the batch"
    return ""
