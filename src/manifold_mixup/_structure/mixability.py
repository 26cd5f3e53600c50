"""Find how a state can be mixed: alone, with what else crosses its depth, or with a mask."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manifold_mixup._masks import is_named_mask
from manifold_mixup._structure.bypass import Bypasses, asks_for_code
from manifold_mixup._structure.carried import Crossing, crossing_at
from manifold_mixup._structure.crossings import Crossings
from manifold_mixup._structure.flow import Flow, data_sources, side_sources
from manifold_mixup._structure.positions import PositionFinder
from manifold_mixup._structure.readers import MaskReaders
from manifold_mixup._structure.recorded import Leaf, Trace
from manifold_mixup._structure.row import Carry, End, Reader


@dataclass(frozen=True)
class Depth:
    """A state at one moment of a recorded pass.

    Attributes:
        mixed: the tensors of the state.
        time: number of nodes at that moment.
        steps: number of operators run at that moment.
        shapes: their shapes with the batch in front.
        checkpointed: whether an activation checkpoint recomputes the layer that ends there.
    """

    mixed: Sequence[Leaf]
    time: int
    steps: int
    shapes: Sequence[tuple[int, ...]]
    checkpointed: bool = False


@dataclass(frozen=True)
class Mixability:
    """How a state can be mixed; see the attributes of `LayerRow`."""

    reason: str = ""
    sides: tuple[str, ...] = ()
    bypassed: str = ""
    mask: str = ""
    readers: tuple[Reader, ...] = ()
    carries: tuple[Carry, ...] = ()
    ends: tuple[End, ...] = ()


class MixabilityFinder:
    """Finds how the states of a recorded pass can be mixed.

    Args:
        first: the recording.
        second: the recording with another batch size, if there is one.
        flow: the flow of the first recording.
        bypasses: explains what bypasses a state.
        positions: finds which dimensions are positions.
        mask: name of an input that always counts as a mask.
        targets: names of the inputs that only a loss inside the model reads.
        graphs: whether the examples are graphs.
    """

    def __init__(
        self,
        first: Trace,
        second: Trace | None,
        flow: Flow,
        bypasses: Bypasses,
        positions: PositionFinder,
        *,
        mask: str | None,
        targets: Sequence[str],
        graphs: bool,
    ) -> None:
        self._first, self._second, self._flow, self._bypasses = first, second, flow, bypasses
        self._mask, self._targets, self._graphs = mask, targets, graphs
        self._positions = positions
        self._readers_of: dict[int, MaskReaders] = {}  # by the index of a mask among the inputs

    def at(self, own: str, depth: Depth) -> Mixability:
        """Find how a state can be mixed, or why it cannot.

        Args:
            own: why the state itself cannot be mixed; empty if it can.
            depth: the state.
        """
        mixed = [leaf.node for leaf in depth.mixed]
        bypass = self._flow.bypassing(mixed) if mixed else 0
        if own or not bypass:
            return Mixability(reason=own, sides=self._bypasses.names(side_sources(bypass)))
        crossing = self._crossing(depth, bypass)
        if crossing.fault:
            return self._bypassed(depth, bypass, crossing.fault)
        if not crossing.sides:
            return Mixability(carries=crossing.carries, ends=crossing.ends)
        mask, readers, fault = self._mask_after(depth, crossing.sides, crossing)
        return Mixability(
            reason=self._bypasses.reason(crossing.sides, mixed) + fault,
            sides=self._bypasses.names(side_sources(crossing.sides)),
            bypassed="side",
            mask=mask,
            readers=readers,
            carries=crossing.carries,
            ends=crossing.ends,
        )

    def _bypassed(self, depth: Depth, bypass: int, crossing: str) -> Mixability:
        """Explain what bypasses a state, and why what is ``crossing`` cannot be mixed too."""
        mask, readers, fault = self._mask_after(depth, bypass)
        data = bool(data_sources(bypass))
        reason = self._bypasses.reason(bypass, [leaf.node for leaf in depth.mixed])
        if data and asks_for_code(reason):
            reason += f": {crossing}"
        return Mixability(
            reason=reason + fault,
            sides=self._bypasses.names(side_sources(bypass)),
            bypassed="data" if data else "side",
            mask=mask,
            readers=readers,
        )

    @functools.cached_property
    def _crossings(self) -> Crossings:
        """The values of the pass, and who reads them."""
        return Crossings(self._first, self._second, self._flow, self._positions)

    def _crossing(self, depth: Depth, bypass: int) -> Crossing:
        """Describe what else crosses a depth, if it can be mixed too."""
        if self._targets:
            return Crossing(fault="the model computes a loss from them")
        mixed = [leaf.node for leaf in depth.mixed]
        found = crossing_at(self._crossings, depth.time, mixed, checkpointed=depth.checkpointed)
        if not (found.fault or found.carries or found.ends) and found.sides != bypass:
            return Crossing(fault="what crosses is not read by an operator")
        return found

    def _mask_after(
        self, depth: Depth, bypass: int, crossing: Crossing | None = None
    ) -> tuple[str, tuple[Reader, ...], str]:
        """If only a mask bypasses a state, return its name, its readers, and a remark.

        Args:
            depth: the state.
            bypass: the colours that bypass it.
            crossing: what else crosses it and is mixed too.
        """
        sides = side_sources(bypass)
        names = self._bypasses.names(sides)
        if self._graphs:  # what is read after it are nodes and edges
            return "", (), ""
        if data_sources(bypass) or len(sides) != 1 or names[0] in self._targets:
            return "", (), ""
        found, fault = self._readers(sides[0], depth, crossing)
        is_mask = names[0] == self._mask or is_named_mask(names[0])
        if fault:
            return "", (), fault if is_mask else ""
        return names[0], found, f"; mask={names[0]!r} mixes it too" if is_mask else ""

    def _readers(
        self, source: int, depth: Depth, crossing: Crossing | None
    ) -> tuple[tuple[Reader, ...], str]:
        """List the modules that read a mask after a state, or the reason it cannot be mixed."""
        positions = self._first.inputs[source].shape[-1:]
        if not any(shape[1:2] == positions for shape in depth.shapes):
            return (), f", and dimension 1 is not that of its {positions[0]} positions"
        if source not in self._readers_of:
            given = self._first, self._second, self._flow
            self._readers_of[source] = MaskReaders(source, *given)
        found, fault = self._readers_of[source].after(depth.steps, checkpointed=depth.checkpointed)
        mixed = [leaf.node for leaf in depth.mixed]
        if not fault and crossing is not None:
            found = self._without_positions(depth, found) if crossing.ends else found
            rest = self._crossing_besides(depth, found)
            bypassed = bool(rest.fault or rest.sides)
        else:
            nodes = [node for received in found.values() for node in received]
            bypassed = not fault and bool(self._flow.bypassing([*mixed, *nodes]))
        if bypassed:
            fault = ", also by code outside the modules that receive it: move that code into one"
        return tuple(found), fault

    def _crossing_besides(self, depth: Depth, readers: Mapping[Reader, list[int]]) -> Crossing:
        """Describe what crosses a depth besides the masks that some modules receive."""
        nodes = [node for received in readers.values() for node in received]
        mixed = [leaf.node for leaf in depth.mixed]
        return crossing_at(
            self._crossings, depth.time, mixed, nodes, checkpointed=depth.checkpointed
        )

    def _without_positions(
        self, depth: Depth, readers: dict[Reader, list[int]]
    ) -> dict[Reader, list[int]]:
        """Leave out the modules that only find a position by the mask, which stays as it is."""
        for reader in [reader for reader in readers if reader.pools]:
            others = {other: nodes for other, nodes in readers.items() if other != reader}
            rest = self._crossing_besides(depth, others)
            readers = readers if rest.fault or rest.sides else others
        return readers
