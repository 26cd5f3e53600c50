"""Find what crosses a depth besides a layer's own output, and the modules that receive it later.

A *depth* is the moment at which a layer ends. Values that exist then and are read afterwards cross
it: a skip connection, a second stream, the embedding of a condition, token ids that a later module
looks up. If every one of them is handed to a module that begins after the layer, all can be mixed
by one plan: each where such a module receives it. Together with the layer's output they are a cut
set. What later code reads outside such modules cannot be reached, and the layer stays bypassed.
"""

from bisect import insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._structure.crossings import Crossings, Edge
from manifold_mixup._structure.recorded import Leaf
from manifold_mixup._structure.row import Carry, End, named
from manifold_mixup._structure.value_names import enclosing_calls

_CHOICES = {"index", "gather"}  # operators that take positions


@dataclass(frozen=True)
class Crossing:
    """What crosses a depth.

    Attributes:
        carries: the tensors that can be mixed where modules receive them.
        ends: the modules of whose output ids or a mask choose one position.
        sides: colours of the masks and other side inputs that are read after it.
        fault: why something else that crosses cannot be mixed; empty if nothing does.
    """

    carries: tuple[Carry, ...] = ()
    ends: tuple[End, ...] = ()
    sides: int = 0
    fault: str = ""


def crossing_at(
    crossings: Crossings,
    time: int,
    mixed: Iterable[int],
    masks: Iterable[int] = (),
    *,
    checkpointed: bool,
) -> Crossing:
    """Describe what crosses a depth.

    Args:
        crossings: the values of the pass.
        time: the number of nodes at that moment.
        mixed: the nodes that are mixed there anyway.
        masks: the nodes of masks that modules receive later, and that are mixed there.
        checkpointed: whether an activation checkpoint recomputes the layer.
    """
    return _Search(crossings, time, frozenset(mixed), frozenset(masks)).crossing(checkpointed)


class _Search:
    """The search for what crosses one depth."""

    def __init__(
        self, crossings: Crossings, time: int, own: Collection[int], masks: Collection[int]
    ) -> None:
        self.crossings, self.names = crossings, crossings.names
        self.time, self.own, self.masks = time, own, masks
        self.flow, self.all_calls = crossings.flow, crossings.trace.calls
        self.arguments: dict[str, dict[str, Carry]] = {}  # by module and path
        self.outputs: dict[str, str] = {}  # by module: the source of its ids
        self.returns: dict[Carry, None] = {}  # states that modules return later
        self.ends: dict[End, None] = {}
        self.sides = 0
        self.from_old_only: set[int] = set()  # later values, computed from old ones alone

    def crossing(self, checkpointed: bool) -> Crossing:
        """Find where everything can be mixed."""
        edges, ids = list(self._edges()), self.crossings.ids
        fault = (
            next(
                filter(
                    None, (self._find_lookup_module(*edge[:2]) for edge in edges if edge[0] in ids)
                ),
                "",
            )
            or self._find_receivers(edges)
            or next(filter(None, map(self._rerun_fault, self.arguments)), "")
        )
        carries = () if fault else tuple(self._carries())
        early = next((carry for carry in carries if carry.early), None)
        if early and (checkpointed or early.layer in self.crossings.checkpointed):
            fault = (
                f"{early.layer!r} receives {named(early.source)} after it, but also runs before "
                f"it, and a checkpoint recomputes one of them"
            )
        return Crossing(() if fault else carries, tuple(self.ends), self.sides, fault)

    def _edges(self) -> Iterator[tuple[int, int, Edge]]:
        """Yield each old value with each value computed from it and from the layer's output.

        What is no state (ids, a time step) is followed to what is computed from old values alone,
        because that may be one.
        """
        # In execution order, so that all that a value was computed from is known.
        edges, place = self.crossings.edges(self.time, self.own), 0
        known = self.crossings.edge_by_nodes
        while place < len(edges):
            pair = reader, number = edges[place]
            place += 1
            if reader in self.masks:
                continue
            edge = known[pair]
            if edge.must_be_mixed or not self._is_passed_on(reader):
                yield number, reader, edge
            elif reader not in self.from_old_only:
                self.from_old_only.add(reader)
                for later in self.crossings.readers(reader):
                    insort(edges, (later, reader), lo=place)

    def _is_passed_on(self, reader: int) -> bool:
        """Return whether what is read becomes a value that is made of old ones alone."""
        nodes = self.flow.nodes
        parents = [parent for parent in nodes[reader].parents if self.flow.colours[parent]]
        return all(map(self._is_old, parents))

    def _calls_after(self, layer: str) -> list[int]:
        return [i for i in self.crossings.calls[layer] if self.all_calls[i].first >= self.time]

    def _is_old(self, number: int) -> bool:
        """Return whether a value was computed before the layer ended, or from such values alone."""
        return (number < self.time and number not in self.own) or number in self.from_old_only

    def _find_lookup_module(self, number: int, reader: int) -> str:
        """Find the module that makes states of ids that cross the depth."""
        node = self.flow.nodes[reader] if reader < len(self.flow.nodes) else None
        if node is None or not (reader in self.crossings.ids or number in node.indices):
            return ""  # read in another way
        for index in enclosing_calls(self.crossings.trace, reader):
            call = self.all_calls[index]
            if call.first < self.time or not self.crossings.given(index, number):
                continue
            later = [
                leaf for i in self._calls_after(call.layer) for leaf in self.all_calls[i].given
            ]
            rows = [
                self.crossings.batch_dim(index, made, returned=True)
                for made in self._returned_states(index)
            ]
            old = all(self._is_old(leaf.node) for leaf in later if self.flow.colours[leaf.node])
            if old and all(rows):
                self.outputs[call.layer] = self.names.source(number)
                return ""
        return (
            f"the code of {self.names.place(reader)} looks up rows by "
            f"{self.names.tensor(number)}; if a module did so, what it returns would be mixed too"
        )

    def _find_receivers(self, edges: Iterable[tuple[int, int, Edge]]) -> str:
        """Find the modules that receive what crosses; return why one of them is missing."""
        for number, reader, edge in edges:
            direct = edge.direct  # there may be hundreds of them, at each of hundreds of depths
            if direct is not None and direct.first >= self.time and not self.outputs:
                self.arguments.setdefault(direct.layer, {}).update(direct.carries)
            elif fault := self._find_receiver(number, reader, edge):
                return fault
        return ""

    def _find_receiver(self, number: int, reader: int, edge: Edge) -> str:
        """If a state crosses the depth, find the module that receives it."""
        if not self.flow.needed[number] or edge.ids or self._is_looked_up(reader):
            return ""
        if not edge.state:
            if not self._chooses_position(number, reader):
                self.sides |= self.flow.needed[number]
            return ""
        if edge.bias:
            return (
                f"{self.names.tensor(number)} is added to attention scores in "
                f"{self.names.place(reader)}, where the mean of two biases is not what two "
                f"examples would have got: mix after that attention"
            )
        for passed in edge.passed:
            if passed.first >= self.time:
                if not passed.fault:
                    self.arguments.setdefault(passed.layer, {}).update(passed.carries)
                return passed.fault
        return "" if self._is_returned_later(reader) else self._code_fault(number, reader)

    def _is_looked_up(self, reader: int) -> bool:
        """Return whether ids choose what a module makes, whose output is mixed."""
        inside = enclosing_calls(self.crossings.trace, reader) if self.outputs else ()
        return any(self.all_calls[index].layer in self.outputs for index in inside)

    def _code_fault(self, number: int, reader: int) -> str:
        source = self.names.tensor(number)
        if reader == len(self.flow.nodes):
            return f"{source} is an output"
        returned = ""
        if self.names.is_kept(number, reader):
            returned = f"{named(self.names.source(number))} returned it, and "
        return (
            f"the code of {self.names.place(reader)} reads {source}; it would be mixed too if "
            f"{returned}a module received it as an argument"
        )

    def _is_returned_later(self, reader: int) -> bool:
        """If a module returns a state after the layer, note that it is mixed in its output."""
        if reader not in self.crossings.returned:
            return False
        index, leaf = self.crossings.returned[reader]
        call = self.all_calls[index]
        at = self.crossings.batch_dim(index, leaf, returned=True)
        if not leaf.floating or at is None or len(self.crossings.calls[call.layer]) > 1:
            return False
        source = self.names.source(self.flow.nodes[reader].parents[0])
        self.returns[self.crossings.carry(call.layer, leaf, source, at, output=True)] = None
        return True

    def _chooses_position(self, number: int, reader: int) -> bool:
        """If a value chooses a position of a later module's output, note that module."""
        node = self.flow.nodes[reader] if reader < len(self.flow.nodes) else None
        if node is None or number not in node.codes or node.operator not in _CHOICES:
            return False
        coloured = [parent for parent in node.parents if self.flow.colours[parent]]
        states = [parent for parent in coloured if not self._is_old(parent)]
        if len(states) != 1 or states[0] not in self.crossings.returned:
            return False
        index, leaf = self.crossings.returned[states[0]]
        call = self.all_calls[index]
        alone = len(self.crossings.calls[call.layer]) == 1
        only = all(map(self._takes_position, self.crossings.readers(states[0])))
        at = self.crossings.batch_dim(index, leaf, returned=True)
        if alone and only and at == BatchDim() and len(leaf.shape) > 1:
            self.ends[End(call.layer, leaf.path)] = None
            return True
        return False

    def _takes_position(self, reader: int) -> bool:
        return reader < len(self.flow.nodes) and self.flow.nodes[reader].operator in _CHOICES

    def _rerun_fault(self, layer: str) -> str:
        """Return why a module that runs several times cannot be given mixed arguments."""
        for index in self._calls_after(layer):
            for leaf in self.all_calls[index].given:
                new = self.flow.colours[leaf.node] and not self._is_old(leaf.node)
                if leaf.path in self.arguments[layer] and new:
                    source = self.arguments[layer][leaf.path].source
                    return (
                        f"{named(source)} is given to {layer!r} after it, which runs again with "
                        f"another state in its place"
                    )
        return ""

    def _carries(self) -> Iterator[Carry]:
        yield from self.returns
        for layer, paths in self.arguments.items():
            early = self._runs_before(layer)
            yield from (replace(carry, early=True) if early else carry for carry in paths.values())
        for layer, source in self.outputs.items():
            for index in self._calls_after(layer)[:1]:
                for leaf in self._returned_states(index):
                    at = self.crossings.batch_dim(index, leaf, returned=True)
                    carry = self.crossings.carry(layer, leaf, source, at, output=True)
                    yield replace(carry, early=self._runs_before(layer))

    def _returned_states(self, index: int) -> list[Leaf]:
        """List the states that a module returns."""
        returned = self.all_calls[index].returned
        return [leaf for leaf in returned if leaf.floating and self.flow.needed[leaf.node]]

    def _runs_before(self, layer: str) -> bool:
        return any(self.all_calls[i].first < self.time for i in self.crossings.calls[layer])
