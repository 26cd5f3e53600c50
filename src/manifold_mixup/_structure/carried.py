"""Find what crosses a depth besides a layer's own output, and the modules that receive it later.

A *depth* is the moment at which a layer ends. Values that exist then and are read afterwards cross
it: a skip connection, a second stream, the embedding of a condition, token ids that a later module
looks up. If every one of them is handed to a module that begins after the layer, all can be mixed
by one plan: each where such a module receives it. Together with the layer's output they are a cut
set. What later code reads outside such modules cannot be reached, and the layer stays bypassed.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from manifold_mixup._batch_dim import BatchDim, find
from manifold_mixup._structure.biases import Biases
from manifold_mixup._structure.flow import Flow, data_sources
from manifold_mixup._structure.positions import PositionFinder
from manifold_mixup._structure.record import Call, Leaf, Trace
from manifold_mixup._structure.row import Carry, End, named

_CHOICES = {"index", "gather"}  # operators that take positions
_MODEL = -1  # in place of the number of a call: the model's own code


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


@dataclass(frozen=True)
class _PassedArgument:
    """A value as a call around its reader receives it: as some of its arguments.

    Attributes:
        first: number of the first node that the call made.
        layer: the module that is called.
        carries: the arguments, by path.
        fault: why they cannot be mixed; empty if they can.
    """

    first: int
    layer: str
    carries: dict[str, Carry]
    fault: str


@dataclass(frozen=True)
class _Edge:
    """A value and one that is computed from it: what is the same at every depth between them.

    Attributes:
        state: whether the value is a state there, and no mask.
        bias: whether it is added to attention scores.
        ids: whether both choose rows of a table.
        must_be_mixed: whether it is mixed there, if at all: a state, or looked up, or an output.
        passed: the calls around the reader that receive it, the outermost first.
        direct: the first of them, if there is nothing else to mind.
    """

    state: bool
    bias: bool
    ids: bool
    must_be_mixed: bool
    passed: tuple[_PassedArgument, ...]
    direct: _PassedArgument | None


class _Edges(dict[tuple[int, int], _Edge]):
    """The edges by the value that is computed and the value that it reads, each described once."""

    def __init__(self, describe: Callable[[int, int], _Edge]) -> None:
        super().__init__()
        self._describe = describe

    def __missing__(self, pair: tuple[int, int]) -> _Edge:
        edge = self[pair] = self._describe(*pair)
        return edge


class Crossings:
    """The values of a recorded pass, by the depths that they cross.

    Args:
        first: the recording.
        second: the recording with another batch size, if there is one.
        flow: the flow of the first recording.
        position_finder: finds which dimensions are positions.
    """

    def __init__(
        self, first: Trace, second: Trace | None, flow: Flow, position_finder: PositionFinder
    ) -> None:
        self.trace, self.flow, self.position_finder = first, flow, position_finder
        same = second is not None and len(second.calls) == len(first.calls)
        self._second = second if same else None
        self.ids = self._choosing_rows()
        self._readers = self._find_readers()
        self._long_lived = [
            (readers[-1], number)
            for number, readers in enumerate(self._readers)
            if readers and (readers[-1] > number + 1 or number + 1 == first.first_computed)
        ]
        self._long_lived.sort()
        self._weights = self._find_weights()
        self._multiplied = self._find_multiplied()
        self.biases = Biases(flow.nodes, self._readers, self._weights)
        self._sources = {leaf.node: leaf.path for leaf in first.inputs}
        self._shapes = {leaf.node: leaf.shape for leaf in first.inputs}
        self.returned: dict[int, tuple[int, Leaf]] = {}  # by node: the call that returned it
        # The same values cross many depths.
        self._read: dict[int, list[tuple[int, int]]] = {}
        self._places: dict[int, str] = {}
        self._dims: dict[tuple[int, str, bool], BatchDim | None] = {}
        self._given: dict[tuple[int, int], list[Leaf]] = {}
        self.edge_by_nodes = _Edges(self._edge)
        self._inside: dict[tuple[int, ...], list[Call]] = defaultdict(list)
        self.calls: dict[str, list[int]] = defaultdict(list)
        for index, call in enumerate(first.calls):
            self.calls[call.layer].append(index)
            self._inside[call.enclosing_calls].append(call)
            self._sources |= {leaf.node: call.layer for leaf in call.returned}
            self._shapes |= {leaf.node: leaf.shape for leaf in (*call.given, *call.returned)}
            self.returned |= {leaf.node: (index, leaf) for leaf in call.returned}
        self.checkpointed = {run.layer for run in first.runs if run.checkpointed}

    def at(
        self, time: int, mixed: Iterable[int], masks: Iterable[int] = (), *, checkpointed: bool
    ) -> Crossing:
        """Describe what crosses a depth.

        Args:
            time: the number of nodes at that moment.
            mixed: the nodes that are mixed there anyway.
            masks: the nodes of masks that modules receive later, and that are mixed there.
            checkpointed: whether an activation checkpoint recomputes the layer.
        """
        return _Search(self, time, frozenset(mixed), frozenset(masks)).crossing(checkpointed)

    def edges(self, time: int, own: Collection[int]) -> list[tuple[int, int]]:
        """List each value computed after a moment, with each value from before that it reads.

        An output of the model is read by the number after the last node.

        Args:
            time: the number of nodes at that moment.
            own: values that are left out.
        """
        found: list[tuple[int, int]] = []
        long = self._long_lived[bisect_left(self._long_lived, (time, -1)) :]
        for number in [number for _, number in long if number < time]:
            if number not in own:
                pairs = self._pairs(number)
                found += pairs[bisect_left(pairs, (time, -1)) :]
        return sorted(found)

    def _pairs(self, number: int) -> list[tuple[int, int]]:
        """List a value with each that is computed from it, which comes first."""
        if number not in self._read:
            self._read[number] = [(reader, number) for reader in self._readers[number]]
        return self._read[number]

    def readers(self, number: int) -> list[int]:
        """List the needed nodes that are computed from a node."""
        return self._readers[number]

    def _find_readers(self) -> list[list[int]]:
        flow = self.flow
        readers: list[list[int]] = [[] for _ in flow.nodes]
        for number, node in enumerate(flow.nodes):
            if flow.needed[number] or number in self.ids:
                for parent in set(node.parents):
                    if flow.needed[parent] or parent in self.ids:
                        readers[parent].append(number)
        for output in set(flow.outputs):
            readers[output].append(len(flow.nodes))
        return readers

    def _choosing_rows(self) -> set[int]:
        """Return the nodes that choose the rows of a needed look-up, directly or through others."""
        flow = self.flow
        found: set[int] = set()
        for number in reversed(range(len(flow.nodes))):
            node = flow.nodes[number]
            looks_up = number in flow.starts and node.indices and flow.needed[number]
            chosen = node.indices if looks_up else node.parents if number in found else ()
            found.update(parent for parent in chosen if flow.colours[parent])
        return found

    def _find_weights(self) -> list[bool]:
        """Return, for each node, whether it is a parameter or made of some without inputs."""
        weights: list[bool] = []
        for number, node in enumerate(self.flow.nodes):
            made = not self.flow.colours[number] and any(weights[p] for p in node.parents)
            weights.append(node.learned or made)
        return weights

    def _find_multiplied(self) -> list[bool]:
        """Return, for each node, whether it holds inputs that were multiplied by weights."""
        multiplied: list[bool] = []
        for number, node in enumerate(self.flow.nodes):
            new = node.product and any(self._weights[parent] for parent in node.parents)
            held = new or any(multiplied[parent] for parent in node.parents)
            multiplied.append(bool(self.flow.colours[number]) and held)
        return multiplied

    def source(self, number: int) -> str:
        """Name the layer or input that a node comes from, or the module whose code computes it."""
        node = self.flow.nodes[number]
        if number in self._sources:
            return self._sources[number]
        if node.kind == "move" and node.parents:
            return self.source(node.parents[0])
        return self.module(node.call)

    def tensor(self, number: int) -> str:
        """Name a node by its source, with its shape if a module received or returned it."""
        shape = self._shapes.get(number)
        source = named(self.source(number))
        if self._is_made_by_code(number):
            source = f"a value computed inside {source}" + ("," if shape else "")
        return source + (f" of shape {shape}" if shape else "")

    def _is_made_by_code(self, number: int) -> bool:
        """Return whether a node is made by the code of a module between other modules."""
        node = self.flow.nodes[number]
        while number not in self._sources and node.kind == "move" and node.parents:
            number = node.parents[0]
            node = self.flow.nodes[number]
        return number not in self._sources and node.call != _MODEL

    def module(self, call: int) -> str:
        """Name the module of a call; empty for the model itself."""
        return "" if call == _MODEL else self.trace.calls[call].layer

    def place(self, reader: int) -> str:
        """Name the module whose code makes a node, and the modules that run before and after."""
        if reader not in self._places:
            enclosing_calls = self.enclosing_calls(reader)
            code = repr(self.module(enclosing_calls[-1])) if enclosing_calls else "the model"
            inside = self._inside[enclosing_calls]
            before = [f"after {call.layer!r}" for call in inside if call.last <= reader][-1:]
            after = [f"before {call.layer!r}" for call in inside if call.first > reader][:1]
            self._places[reader] = " ".join([code, " and ".join(before + after)]).strip()
        return self._places[reader]

    def _edge(self, reader: int, number: int) -> _Edge:
        """Describe a value and one that is computed from it."""
        state = self._is_state(number, reader)
        bias = state and self.biases.receive(number, reader)
        calls = self.enclosing_calls(reader) if state and not bias else ()
        passed = [
            self._passed_argument(i, leaves, reader)
            for i in calls
            if (leaves := self.given(i, number))
        ]
        ids = number in self.ids and reader in self.ids
        usual = state and not (bias or ids) and self.flow.needed[number]
        direct = next((each for each in passed[:1] if usual and not each.fault), None)
        must_be_mixed = self._must_be_mixed(number, reader, state=state)
        return _Edge(state, bias, ids, must_be_mixed, tuple(passed), direct)

    def _must_be_mixed(self, number: int, reader: int, *, state: bool) -> bool:
        if reader == len(self.flow.nodes) or (state and reader not in self.ids):
            return True
        return number in self.ids and number in self.flow.nodes[reader].indices

    def _passed_argument(self, index: int, leaves: list[Leaf], reader: int) -> _PassedArgument:
        """Describe the arguments of a call that are a value."""
        call, source = self.trace.calls[index], self.source(leaves[0].node)
        carries = {}
        for leaf in leaves:
            at = self.batch_dim(index, leaf)
            carries[leaf.path] = self.carry(call.layer, leaf, source, at)
        if fault := self._argument_fault(index, leaves, reader):
            fault = f"{self.tensor(leaves[0].node)} is given to {call.layer!r} after it, {fault}"
        return _PassedArgument(call.first, call.layer, carries, fault)

    def carry(
        self, layer: str, leaf: Leaf, source: str, at: BatchDim | None, *, output: bool = False
    ) -> Carry:
        """Describe a tensor that is mixed where a module receives or returns it."""
        return Carry(
            layer,
            leaf.path,
            source,
            output=output,
            batch_dim=None if at == BatchDim() else at,
            shape=leaf.shape,
            positions=self.position_finder.of(leaf, at),
        )

    def _argument_fault(self, index: int, leaves: list[Leaf], reader: int) -> str:
        """Return why an argument of a call cannot be mixed; empty if it can."""
        call = self.trace.calls[index]
        for leaf in leaves:
            if not leaf.floating:
                return (
                    "as integers, which cannot be interpolated: pass floating point numbers, if "
                    "their mean has a meaning, or mix after that module"
                )
            if self.batch_dim(index, leaf) is None:
                return "but none of its dimensions is the batch: mix after that module"
        if reader < len(self.flow.nodes) and self.flow.nodes[reader].over == leaves[0].node:
            outside = [n for n in self.readers(reader) if not call.first <= n < call.last]
            if outside:
                return "which writes into it in place, for others that read it: copy it there first"
        return ""

    def given(self, index: int, number: int) -> list[Leaf]:
        """List the arguments of a call that are a value; masks have a copy of their own."""
        key = index, number
        if key not in self._given:
            call = self.trace.calls[index]
            copies = {leaf.path for leaf in call.masks if leaf.node == number}
            self._given[key] = [
                leaf for leaf in call.given if leaf.node == number or leaf.path in copies
            ]
        return self._given[key]

    def _is_state(self, number: int, reader: int) -> bool:
        """Return whether a value that is read later is a state, not a mask.

        A value that was made of integers or booleans alone is a state if weights have multiplied
        it, or are the first to do so (a one-hot class, the sinusoid of a time step).
        """
        if data_sources(self.flow.needed[number]) or self._multiplied[number]:
            return True
        nodes = self.flow.nodes
        return reader < len(nodes) and nodes[reader].product and self._multiplied[reader]

    def enclosing_calls(self, reader: int) -> tuple[int, ...]:
        """List the calls that were running when a node was made, the outermost first."""
        inside = self.flow.nodes[reader].call if reader < len(self.flow.nodes) else _MODEL
        return () if inside == _MODEL else (*self.trace.calls[inside].enclosing_calls, inside)

    def batch_dim(self, index: int, leaf: Leaf, *, returned: bool = False) -> BatchDim | None:
        """Return where an argument or result of a call holds the batch; None if nowhere."""
        key = index, leaf.path, returned
        if key not in self._dims:
            self._dims[key] = self._find_batch_dim(index, leaf, returned=returned)
        return self._dims[key]

    def _find_batch_dim(self, index: int, leaf: Leaf, *, returned: bool) -> BatchDim | None:
        first = BatchDim() if leaf.shape[:1] == (self.trace.batch,) else None
        if self._second is None:
            return first
        call = self._second.calls[index]
        others = call.returned if returned else call.given
        shape = next((other.shape for other in others if other.path == leaf.path), leaf.shape)
        if first and shape[:1] == (self._second.batch,):
            return first
        return find(leaf.shape, self.trace.batch, shape, self._second.batch)


class _Search:
    """The search for what crosses one depth."""

    def __init__(
        self, crossings: Crossings, time: int, own: Collection[int], masks: Collection[int]
    ) -> None:
        self.crossings, self.time, self.own, self.masks = crossings, time, own, masks
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

    def _edges(self) -> Iterator[tuple[int, int, _Edge]]:
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
        for index in self.crossings.enclosing_calls(reader):
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
                self.outputs[call.layer] = self.crossings.source(number)
                return ""
        return (
            f"the code of {self.crossings.place(reader)} looks up rows by "
            f"{self.crossings.tensor(number)}; a module in place of that code could be mixed"
        )

    def _find_receivers(self, edges: Iterable[tuple[int, int, _Edge]]) -> str:
        """Find the modules that receive what crosses; return why one of them is missing."""
        for number, reader, edge in edges:
            direct = edge.direct  # there may be hundreds of them, at each of hundreds of depths
            if direct is not None and direct.first >= self.time and not self.outputs:
                self.arguments.setdefault(direct.layer, {}).update(direct.carries)
            elif fault := self._find_receiver(number, reader, edge):
                return fault
        return ""

    def _find_receiver(self, number: int, reader: int, edge: _Edge) -> str:
        """If a state crosses the depth, find the module that receives it."""
        if not self.flow.needed[number] or edge.ids or self._is_looked_up(reader):
            return ""
        if not edge.state:
            if not self._chooses_position(number, reader):
                self.sides |= self.flow.needed[number]
            return ""
        if edge.bias:
            return (
                f"{self.crossings.tensor(number)} is added to attention scores in "
                f"{self.crossings.place(reader)}, where the mean of two biases is not what two "
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
        inside = self.crossings.enclosing_calls(reader) if self.outputs else ()
        return any(self.all_calls[index].layer in self.outputs for index in inside)

    def _code_fault(self, number: int, reader: int) -> str:
        source = self.crossings.tensor(number)
        if reader == len(self.flow.nodes):
            return f"{source} is an output"
        return (
            f"the code of {self.crossings.place(reader)} reads {source}; a module in place of that "
            f"code could be mixed"
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
        source = self.crossings.source(self.flow.nodes[reader].parents[0])
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
