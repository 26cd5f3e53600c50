"""Which modules read a mask after a layer, so that a mixed one can be handed to them."""

from dataclasses import dataclass

from manifold_mixup._structure.flow import Flow, side_colour
from manifold_mixup._structure.record import Call, Leaf, Trace


@dataclass(frozen=True)
class Reader:
    """An argument of a module that is made from a mask.

    Attributes:
        layer: name of the module.
        path: of the argument; it begins with 0 for positional and 1 for keyword arguments.
        pools: whether the module takes positions together, and leaves none in its output.
    """

    layer: str
    path: str
    pools: bool


def readers_after(
    steps: int, source: int, first: Trace, second: Trace | None, flow: Flow
) -> tuple[tuple[Reader, ...], list[int], str]:
    """List the outermost modules that begin after a layer and are given something of a mask.

    Args:
        steps: operators run when the layer ended.
        source: the place of the mask among the inputs.
        first: the recorded pass.
        second: the same with another batch size, if there is one.
        flow: of the first.

    Returns:
        The readers, the values they are given, and why these cannot be mixed, if they cannot.
    """
    masks = [_of_source(call, source, flow) for call in first.calls]
    after = [
        place for place, call in enumerate(first.calls) if call.steps >= steps and masks[place]
    ]
    outermost = [place for place in after if not set(first.calls[place].around) & set(after)]
    positions = first.inputs[source].shape[-1]
    found: dict[Reader, None] = {}
    nodes = []
    for place in outermost:
        call = first.calls[place]
        for leaf in masks[place]:
            if fault := _fault(call, leaf, place, first, second, positions):
                return (), [], fault
            pools = all(shape[1:2] != (positions,) for shape in call.shapes)
            found[Reader(call.layer, leaf.path, pools)] = None
            nodes.append(leaf.node)
    layers = {reader.layer for reader in found}
    early = next((c.layer for c in first.calls if c.layer in layers and c.steps < steps), None)
    if early is not None:
        return (), [], f", by {early!r}, which runs before it as well"
    return tuple(found), nodes, ""


def _of_source(call: Call, source: int, flow: Flow) -> list[Leaf]:
    return [
        leaf
        for leaf in call.masks
        if flow.needed[leaf.node] and flow.colours[leaf.node] == side_colour(source)
    ]


def _fault(
    call: Call, leaf: Leaf, place: int, first: Trace, second: Trace | None, positions: int
) -> str:
    """Return why a mask that a module is given cannot be mixed; empty if it can."""
    given = f", by {call.layer!r}, which is given it as {leaf.shape}"
    if positions not in (leaf.shape[-1:] + leaf.shape[1:2]):
        return f"{given}: its {positions} positions are neither dimension 1 nor the last"
    twins = second.calls[place].masks if second and len(second.calls) == len(first.calls) else []
    twin = next((twin for twin in twins if twin.path == leaf.path), leaf)
    batches = (first.batch, second.batch if second and twin is not leaf else first.batch)
    if (leaf.shape[0], twin.shape[0]) != batches:
        return f"{given}: dimension 0 is not the batch"
    return ""
