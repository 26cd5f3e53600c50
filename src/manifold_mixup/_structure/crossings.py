"""The values of a recorded pass that are read after a layer, and the modules that receive them.

What is the same at every depth that a value crosses is found once: who reads it, whether it is a
state or a mask there, and as which arguments modules receive it.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from manifold_mixup._batch_dim import BatchDim, find
from manifold_mixup._structure.biases import Biases
from manifold_mixup._structure.flow import Flow, data_sources
from manifold_mixup._structure.positions import PositionFinder
from manifold_mixup._structure.recorded import Leaf, Trace
from manifold_mixup._structure.row import Carry
from manifold_mixup._structure.value_names import ValueNames, enclosing_calls


@dataclass(frozen=True)
class PassedArgument:
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
class Edge:
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
    passed: tuple[PassedArgument, ...]
    direct: PassedArgument | None


class _Edges(dict[tuple[int, int], Edge]):
    """The edges by the value that is computed and the value that it reads, each described once."""

    def __init__(self, describe: Callable[[int, int], Edge]) -> None:
        super().__init__()
        self._describe = describe

    def __missing__(self, pair: tuple[int, int]) -> Edge:
        edge = self[pair] = self._describe(*pair)
        return edge


class Crossings:
    """The values of a recorded pass, and who reads them.

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
        self.names = ValueNames(first)
        self.returned: dict[int, tuple[int, Leaf]] = {}  # by node: the call that returned it
        # The same values cross many depths.
        self._read: dict[int, list[tuple[int, int]]] = {}
        self._dims: dict[tuple[int, str, bool], BatchDim | None] = {}
        self._given: dict[tuple[int, int], list[Leaf]] = {}
        self.edge_by_nodes = _Edges(self._edge)
        self.calls: dict[str, list[int]] = defaultdict(list)
        for index, call in enumerate(first.calls):
            self.calls[call.layer].append(index)
            self.returned |= {leaf.node: (index, leaf) for leaf in call.returned}
        self.checkpointed = {run.layer for run in first.runs if run.checkpointed}

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

    def _edge(self, reader: int, number: int) -> Edge:
        """Describe a value and one that is computed from it."""
        state = self._is_state(number, reader)
        bias = state and self.biases.receive(number, reader)
        calls = enclosing_calls(self.trace, reader) if state and not bias else ()
        passed = [
            self._passed_argument(i, leaves, reader)
            for i in calls
            if (leaves := self.given(i, number))
        ]
        ids = number in self.ids and reader in self.ids
        usual = state and not (bias or ids) and self.flow.needed[number]
        direct = next((each for each in passed[:1] if usual and not each.fault), None)
        must_be_mixed = self._must_be_mixed(number, reader, state=state)
        return Edge(state, bias, ids, must_be_mixed, tuple(passed), direct)

    def _must_be_mixed(self, number: int, reader: int, *, state: bool) -> bool:
        if reader == len(self.flow.nodes) or (state and reader not in self.ids):
            return True
        return number in self.ids and number in self.flow.nodes[reader].indices

    def _passed_argument(self, index: int, leaves: list[Leaf], reader: int) -> PassedArgument:
        """Describe the arguments of a call that are a value."""
        call, source = self.trace.calls[index], self.names.source(leaves[0].node)
        carries = {}
        for leaf in leaves:
            at = self.batch_dim(index, leaf)
            carries[leaf.path] = self.carry(call.layer, leaf, source, at)
        if fault := self._argument_fault(index, leaves, reader):
            fault = (
                f"{self.names.tensor(leaves[0].node)} is given to {call.layer!r} after it, {fault}"
            )
        return PassedArgument(call.first, call.layer, carries, fault)

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
