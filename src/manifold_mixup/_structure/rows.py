"""Build a row for each module and input of a recorded pass: whether it can be mixed, or why not."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from manifold_mixup._batch_dim import BatchDim, find
from manifold_mixup._masks import is_side
from manifold_mixup._outputs import is_named, require_known
from manifold_mixup._positions import Positions
from manifold_mixup._structure.carried import Crossing, Crossings
from manifold_mixup._structure.category_ids import category_id_nodes
from manifold_mixup._structure.flow import (
    Flow,
    data_colour,
    data_sources,
    side_colour,
    side_sources,
)
from manifold_mixup._structure.interactions import interacting_operators
from manifold_mixup._structure.positions import PositionFinder
from manifold_mixup._structure.readers import readers_after
from manifold_mixup._structure.record import Leaf, Run, Trace
from manifold_mixup._structure.row import Carry, End, InputRow, LayerRow, Reader
from manifold_mixup._structure.trace import Traces

# Name parts that suggest a mask.
_MASKS = ("mask", "pad")


_CODES = (
    "it holds category ids: forward casts part of it to integers that choose rows, and "
    "interpolated ids mean nothing. Mix a layer after that lookup"
)
_SHUFFLED = (
    "the rows of the batch are in a different order there: forward reorders them before this layer "
    "and restores the order after it. Mix before the first reordering or after the last"
)
# Reasons for bypasses that are followed by the code that reads what bypasses.
_RESIDUAL = "the residual path around it carries the unmixed state"
_READ = "still read after it"
# Reasons for bypasses that no operator shows.
_CAUSES = {
    "gradient": (
        "forward takes a derivative with respect to a value before this layer, and the gradient "
        "bypasses the mix. Mix that value itself, or a layer after the derivative"
    ),
    "unseen": (
        "forward computes outside PyTorch's operators (NumPy, lists, a kernel launched directly), "
        "so it cannot be seen whether the result depends on this layer. Mix a layer after that "
        "computation, or wrap the kernel with torch.library; if verify() proves the layer, set "
        "check=False"
    ),
}


# Why a state before the pooling of graphs has no partners.
_NODES = (
    "not a row for each of the {} graphs: nodes and edges have no partners in another graph. Mix "
    "the output of the module that pools, or a layer after it"
)

# Outputs whose dimension 0 follows the batch, but is not the batch.
_SEVERAL_ROWS = (
    "dimension 0 of the model's output{} holds {} rows of each example, so that it has no mixed "
    "target. Return it with the batch first, as output.unflatten(0, (len(x), -1)) if the rows of "
    "an example are neighbours, else output.unflatten(0, (-1, len(x))).transpose(0, 1), and "
    "flatten it and the target in the criterion"
)
_NO_ROWS = (
    "dimension 0 of the model's output{} follows the batch, but not in whole examples: those of "
    "different lengths are no partners. Return a row for each example, with all its positions, and "
    "let the criterion ignore some of them, by their labels; a PackedSequence as "
    "torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0]"
)
_LIST = (
    "{0!r} is a list with a tensor for each example, not one tensor. Stack or pad it before the "
    "model is called: torch.nn.utils.rnn.pad_sequence({0}, batch_first=True), with mask= for the "
    "padding. Or attach to a module inside that receives all examples as one tensor: "
    "ManifoldMixup(model.head, ['input'])"
)
_NO_TENSOR = (
    "the model returns no floating point tensor (in tuples, dicts or dataclasses). Return the "
    "parameters of a distribution as tensors, and make the distribution in the criterion"
)


@dataclass(frozen=True)
class _Depth:
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
class _Mixability:
    """How a state can be mixed; see the attributes of `LayerRow`."""

    reason: str = ""
    sides: tuple[str, ...] = ()
    bypassed: str = ""
    mask: str = ""
    readers: tuple[Reader, ...] = ()
    carries: tuple[Carry, ...] = ()
    ends: tuple[End, ...] = ()


class RowBuilder:
    """Builds the rows from the recordings of a forward pass.

    Args:
        traces: the recordings.
        mask: name of an input that always counts as a side input.
        outputs: paths of the outputs that the loss reads; None means all.

    Raises:
        ValueError: one of ``outputs`` matches no output of the model.
    """

    def __init__(
        self, traces: Traces, mask: str | None = None, outputs: Sequence[str] | None = None
    ) -> None:
        require_known([leaf.path for leaf in traces.first.outputs], outputs)
        self.scripted, self.graphs = traces.scripted, traces.graphs
        self.first = _read_by_loss(traces.first, outputs)
        self.second = traces.second and _read_by_loss(traces.second, outputs)
        self._beside = _beside(traces, outputs)
        self.mask = mask
        self.names = [leaf.path for leaf in self.first.inputs]
        self._resized = _shapes(self.second)
        self._outputs_resized = _output_shapes(self.second)
        self.flow = self._flow([leaf for leaf in self.first.outputs if leaf.floating])
        self.outputs, self.losses = self._choose_outputs()
        if len(self.outputs) < len(self.flow.outputs):
            self.flow = self._flow(self.outputs)
        self.category_ids = category_id_nodes(
            self.first.nodes, [leaf.node for leaf in self.first.inputs]
        )
        self.fault = self._output_fault()
        self.shuffles = self._shuffles()

    @functools.cached_property
    def doubts(self) -> tuple[str, ...]:
        """Name the operators by which rows of the batch may interact on the way to an output."""
        # For a list with one item per example, a numerical check would not help either.
        if self.second is None or len(self.first.outputs) != len(self.second.outputs):
            return ()
        needed = self.flow.needed
        first = [found for found in self.first.interactions if needed[found.node]]
        counts = self.first.steps, self.second.steps
        second = self.second.interactions
        if counts[0] == counts[1] and len(self.first.interactions) == len(second):
            pairs = zip(self.first.interactions, second, strict=True)
            second = [other for one, other in pairs if needed[one.node]]
        if self.scripted and counts[0] != counts[1]:
            return ()  # the first run of TorchScript is not optimised, the second is
        return tuple(dict.fromkeys(interacting_operators(first, second, counts)))

    @property
    def packs(self) -> bool:
        """Whether the model packs sequences, by their lengths."""
        return any(node.operator == "_pack_padded_sequence" for node in self.first.nodes)

    def _shuffles(self) -> list[int]:
        """List the values in which all data has reordered rows."""
        return [
            found.node
            for found in self.first.interactions
            if found.reorders
            and found.lengths[:1] == (self.first.batch,)
            and self.flow.needed[found.node]
            and not data_sources(self.flow.bypassing([found.node]))
        ]

    def row(self, run: Run) -> LayerRow:
        """Describe a module by one run."""
        floating = [leaf for leaf in run.leaves if leaf.floating]
        mixed = self.mixed(run)
        time = max((leaf.node for leaf in run.leaves), default=0) + 1
        shapes = [self._front_shape(run, leaf) for leaf in mixed]
        depth = _Depth(mixed, time, run.steps, shapes, run.checkpointed)
        result = self._mixability(self.fault or self.own_fault(run, mixed), depth)
        return LayerRow(
            name=run.layer,
            shape=next((leaf.shape for leaf in floating), ()),
            depth=self._depth(run),
            cut=not result.reason,
            side=result.sides,
            reason=result.reason,
            runs=1,
            mixed=tuple(leaf.path for leaf in mixed),
            bypassed=result.bypassed,
            checkpointed=run.checkpointed,
            unmixed=tuple(leaf.path for leaf in floating if leaf not in mixed),
            in_front=run.in_front,
            mask=result.mask,
            readers=result.readers,
            carries=result.carries,
            ends=result.ends,
            parameters=run.weights / max(self.first.weights, 1),
            order=run.steps / max(self.first.steps, 1),
            batch_dims=tuple(self._batch_dims(run, mixed)),
            shapes=tuple((leaf.path, leaf.shape) for leaf in mixed),
            positions=tuple(self.positions(run, mixed)),
            plain_outputs=self.plain_outputs(mixed),
        )

    def mixed(self, run: Run) -> list[Leaf]:
        """List the tensors in the output of a run that must be mixed."""
        return [leaf for leaf in run.leaves if leaf.floating and self.flow.needed[leaf.node]]

    def plain_outputs(self, mixed: Sequence[Leaf]) -> tuple[str, ...]:
        """Name the outputs, beside those to mix, that are made of the inputs without ``mixed``."""
        nodes = {leaf.node for leaf in mixed}
        return tuple(path for path, made_of in self._made_beside if nodes.isdisjoint(made_of))

    @functools.cached_property
    def _made_beside(self) -> list[tuple[str, set[int]]]:
        """The outputs, beside those to mix, that are made of inputs; and all that made them."""
        given = {leaf.node for i, leaf in enumerate(self.first.inputs) if self._holds_examples(i)}
        rows = [leaf for leaf, resized in self._beside if self._follows(leaf.shape, resized)]
        found = [(leaf.path, self._made_of(leaf.node)) for leaf in rows]
        return [(path, made_of) for path, made_of in found if not given.isdisjoint(made_of)]

    def _made_of(self, node: int) -> set[int]:
        """Return a value and all that it was computed from."""
        found, open_nodes = {node}, [node]
        while open_nodes:
            new = set(self.first.nodes[open_nodes.pop()].parents) - found
            found |= new
            open_nodes += new
        return found

    def input_row(self, index: int) -> InputRow:
        """Describe input number ``index``."""
        leaf = self.first.inputs[index]
        data = bool(self.flow.total & data_colour(index))
        side = bool(self.flow.total & side_colour(index))
        depth = _Depth([leaf] if data else [], self.first.first_computed, 0, [leaf.shape])
        result = self._mixability(
            self.fault or self._input_fault(leaf, data=data, side=side), depth
        )
        return InputRow(
            name=leaf.path,
            shape=leaf.shape,
            floating=leaf.floating,
            batch=0 if self._batched(index) else None,
            kind="data" if data else "side" if side else "constant",
            cut=not result.reason,
            side=result.sides,
            reason=result.reason,
            mask=result.mask,
            readers=result.readers,
            carries=result.carries,
            ends=result.ends,
            positions=self._position_finder.of(leaf, BatchDim()) if self._batched(index) else None,
            plain_outputs=self.plain_outputs([leaf]),
        )

    def _mixability(self, own: str, depth: "_Depth") -> "_Mixability":
        """Find how a depth can be mixed, or why it cannot.

        Args:
            own: why the state itself cannot be mixed; empty if it can.
            depth: the state.
        """
        mixed = [leaf.node for leaf in depth.mixed]
        bypass = self.flow.bypassing(mixed) if mixed else 0
        if own or not bypass:
            return _Mixability(reason=own, sides=self._names(side_sources(bypass)))
        crossing = self._crossing(depth, bypass)
        if crossing.fault:
            mask, readers, fault = self._mixable_mask(depth, bypass)
            data = bool(data_sources(bypass))
            reason = self._bypass_reason(bypass, mixed)
            if data and reason.endswith((_RESIDUAL, _READ)):
                reason += f": {crossing.fault}"
            return _Mixability(
                reason=reason + fault,
                sides=self._names(side_sources(bypass)),
                bypassed="data" if data else "side",
                mask=mask,
                readers=readers,
            )
        if not crossing.sides:
            return _Mixability(carries=crossing.carries, ends=crossing.ends)
        mask, readers, fault = self._mixable_mask(depth, crossing.sides, crossing)
        return _Mixability(
            reason=self._bypass_reason(crossing.sides, mixed) + fault,
            sides=self._names(side_sources(crossing.sides)),
            bypassed="side",
            mask=mask,
            readers=readers,
            carries=crossing.carries,
            ends=crossing.ends,
        )

    def _crossing(self, depth: "_Depth", bypass: int) -> Crossing:
        """Describe what else crosses a depth, if it can be mixed too."""
        if self.losses:
            return Crossing(fault="the model computes a loss from them")
        mixed = [leaf.node for leaf in depth.mixed]
        found = self.crossings.at(depth.time, mixed, checkpointed=depth.checkpointed)
        if not (found.fault or found.carries or found.ends) and found.sides != bypass:
            return Crossing(fault="what crosses is not read by an operator")
        return found

    @functools.cached_property
    def _special(self) -> dict[str, list[int]]:
        """The values of a special kind, by kind."""
        found: dict[str, list[int]] = {}
        for index, node in enumerate(self.first.nodes):
            if node.kind:
                found.setdefault(node.kind, []).append(index)
        return found

    @functools.cached_property
    def crossings(self) -> Crossings:
        """The values of the pass, by the depths that they cross."""
        return Crossings(self.first, self.second, self.flow, self._position_finder)

    @functools.cached_property
    def _position_finder(self) -> PositionFinder:
        """The positions of the values of the pass."""
        return PositionFinder(self.first, self.flow.colours)

    def _mixable_mask(
        self, depth: "_Depth", bypass: int, crossing: Crossing | None = None
    ) -> tuple[str, tuple[Reader, ...], str]:
        """If only a mask bypasses a state, return its name, its readers, and a remark.

        Args:
            depth: the state.
            bypass: the colours that bypass it.
            crossing: what else crosses it and is mixed too.
        """
        sides = side_sources(bypass)
        names = self._names(sides)
        if self.graphs:  # what is read after it are nodes and edges
            return "", (), ""
        if data_sources(bypass) or len(sides) != 1 or names[0] in self.losses:
            return "", (), ""
        found, fault = self._readers(sides[0], depth, crossing)
        is_mask = names[0] == self.mask or any(part in names[0].lower() for part in _MASKS)
        if fault:
            return "", (), fault if is_mask else ""
        return names[0], found, f"; mask={names[0]!r} mixes it too" if is_mask else ""

    def _readers(
        self, source: int, depth: "_Depth", crossing: Crossing | None
    ) -> tuple[tuple[Reader, ...], str]:
        """List the modules that read a mask after a state, or the reason it cannot be mixed."""
        positions = self.first.inputs[source].shape[-1:]
        if not any(shape[1:2] == positions for shape in depth.shapes):
            return (), f", and dimension 1 is not that of its {positions[0]} positions"
        given = depth.steps, source, self.first, self.second, self.flow
        found, fault = readers_after(*given, checkpointed=depth.checkpointed)
        mixed = [leaf.node for leaf in depth.mixed]
        if not fault and crossing is not None:
            found = self._without_positions(depth, found) if crossing.ends else found
            rest = self._crossing_besides(depth, found)
            bypassed = bool(rest.fault or rest.sides)
        else:
            nodes = [node for received in found.values() for node in received]
            bypassed = not fault and bool(self.flow.bypassing([*mixed, *nodes]))
        if bypassed:
            fault = ", also by code outside the modules that receive it: move that code into one"
        return tuple(found), fault

    def _crossing_besides(self, depth: "_Depth", readers: Mapping[Reader, list[int]]) -> Crossing:
        """Describe what crosses a depth besides the masks that some modules receive."""
        nodes = [node for received in readers.values() for node in received]
        mixed = [leaf.node for leaf in depth.mixed]
        return self.crossings.at(depth.time, mixed, nodes, checkpointed=depth.checkpointed)

    def _without_positions(
        self, depth: "_Depth", readers: dict[Reader, list[int]]
    ) -> dict[Reader, list[int]]:
        """Leave out the modules that only find a position by the mask, which stays as it is."""
        for reader in [reader for reader in readers if reader.pools]:
            others = {other: nodes for other, nodes in readers.items() if other != reader}
            rest = self._crossing_besides(depth, others)
            readers = readers if rest.fault or rest.sides else others
        return readers

    def _input_fault(self, leaf: Leaf, *, data: bool, side: bool) -> str:
        """Return why an input cannot be interpolated; empty if it can."""
        if side and not data:
            return "it is a side input"
        if not data:
            return "no output depends on it, or it has no batch"
        if not leaf.floating:
            return "it is not floating point"
        if self.graphs and leaf.shape[0] != self.first.batch:
            return f"it has shape {leaf.shape}, {_NODES.format(self.first.batch)}"
        return _CODES if leaf.node in self.category_ids else ""

    def _flow(self, outputs: Sequence[Leaf]) -> Flow:
        nodes = [leaf.node for leaf in outputs]
        batched = [index for index in range(len(self.names)) if self._holds_examples(index)]
        starts = {self.first.inputs[index].node: self._start(index) for index in batched}
        flow = Flow(self.first.nodes, starts, nodes)
        if not data_sources(flow.total):
            # No input is floating point or chooses rows: the bytes of an image, for example.
            starts = {self.first.inputs[index].node: data_colour(index) for index in batched}
            flow = Flow(self.first.nodes, starts, nodes)
        return flow

    def _start(self, index: int) -> int:
        leaf = self.first.inputs[index]
        side = is_side(leaf.path, self.mask, floating=leaf.floating)
        return side_colour(index) if side else data_colour(index)

    def _holds_examples(self, index: int) -> bool:
        # Graphs are spread over nodes, edges and whatever else the model is given.
        return bool(self.first.inputs[index].shape) if self.graphs else self._batched(index)

    def _batched(self, index: int) -> bool:
        second = self.second.inputs[index].shape if self.second else None
        return self._follows(self.first.inputs[index].shape, second)

    def _follows(self, shape: tuple[int, ...], resized: tuple[int, ...] | None) -> bool:
        """Return whether dimension 0 is the batch, in both recordings."""
        if not shape or shape[0] != self.first.batch:
            return False
        return resized is None or self.second is None or resized[0] == self.second.batch

    def _choose_outputs(self) -> tuple[list[Leaf], tuple[str, ...]]:
        """Choose the outputs that must be mixed, and name the inputs that are targets.

        An output without a batch dimension, such as a balancing loss, does not depend on the order
        of the examples and may be ignored. The exception is one computed from an input that nothing
        else reads: that input is a target, and the output a loss inside the model.
        """
        floating = [leaf for leaf in self.first.outputs if leaf.floating]
        batched = [leaf for leaf in floating if self._has_batch_dim(leaf)]
        if not batched:
            return floating, ()
        read = {source for leaf in batched for source in self._sources_of(leaf)}
        losses = [
            leaf for leaf in floating if leaf not in batched and set(self._sources_of(leaf)) - read
        ]
        targets = {source for leaf in losses for source in self._sources_of(leaf)} - read
        return batched + losses, self._names(sorted(targets))

    def _has_batch_dim(self, output: Leaf) -> bool:
        """Return whether an output has a batch dimension, at any position."""
        if self._outputs_resized.keys() == {leaf.path for leaf in self.first.outputs}:
            return self._outputs_resized[output.path] != output.shape
        # There is one recording only, or the output is a list with one item per example.
        return output.shape != ()

    def _sources_of(self, leaf: Leaf) -> list[int]:
        colours = self.flow.colours[leaf.node]
        return data_sources(colours) + side_sources(colours)

    def _output_fault(self) -> str:
        """Return why the outputs of the model rule out every layer; empty if they do not."""
        if not self.outputs:
            return _NO_TENSOR
        resized = self._outputs_resized
        first = [leaf for leaf in self.outputs if self._follows(leaf.shape, resized.get(leaf.path))]
        for leaf in first:
            if len(moved := _moved(leaf.shape, resized.get(leaf.path, leaf.shape))) > 1:
                return (
                    f"dimension {moved[1]} of the model's output{_at(leaf)} of shape {leaf.shape} "
                    f"also follows the batch: it compares examples with each other, and such a "
                    f"comparison has no mixed targets. Return the states that are compared instead"
                )
        if first:
            return ""
        shape = self.outputs[0].shape
        if shape == ():
            return "the model returns a single number, a loss computed inside it. " + (
                _boxes(self.names) or "Return the model's outputs instead, and wrap the criterion"
            )
        if fault := "" if self.graphs else self._moved_fault() or self._list_fault():
            return fault
        return (
            f"dimension 0 of the model's inputs, the batch, is not dimension 0 of its output of "
            f"shape {shape}. Put the batch first in both (batch_first=True in recurrent layers), "
            f"or set batch_dim=1 if it is dimension 1 of the inputs; give a single example a batch "
            f"dimension. For graphs batched as one, where dimension 0 counts nodes, pass the model "
            f"the graph of each node (0, 0, 1, ...), or attach to the module after the pooling: "
            f"ManifoldMixup(model.head, ['input'])"
        )

    def _moved_fault(self) -> str:
        """Return why outputs with the batch elsewhere rule out every layer; empty without any."""
        for leaf in self.outputs:
            moved = _moved(leaf.shape, self._outputs_resized.get(leaf.path, leaf.shape))
            if moved[:1] == [0]:
                return self._rows_fault(leaf)
            if len(moved) == 1:
                return (
                    f"the model is given the batch at dimension 0, and returns it at dimension "
                    f"{moved[0]} of its output{_at(leaf)} of shape {leaf.shape}. Return it with "
                    f"the batch first, output.movedim({moved[0]}, 0). A criterion that needs it "
                    f"elsewhere, such as CTCLoss, can be given output.movedim(0, {moved[0]})"
                )
        return ""

    def _list_fault(self) -> str:
        """Return a reason if the inputs are a list with a tensor for each example."""
        items = Counter(name.rpartition(".")[0] for name in self.names if name[-1:].isdigit())
        lists = [name for name, count in items.items() if name and count > 1]
        rows = {leaf.shape[:1] for leaf in self.outputs}
        found = [name for name in lists if rows == {(items[name],)}]
        return _LIST.format(found[0]) if found else ""

    def _rows_fault(self, leaf: Leaf) -> str:
        """Return what the rows of an output are, if not one of each example."""
        assert self.second is not None
        rows, others = leaf.shape[0], self._outputs_resized[leaf.path][0]
        several = rows // self.first.batch
        each = (rows, others) == (several * self.first.batch, several * self.second.batch)
        fault = _SEVERAL_ROWS if each and not self.packs else _NO_ROWS
        return fault.format(f"{_at(leaf)} of shape {leaf.shape}", several)

    def own_fault(self, run: Run, mixed: Sequence[Leaf]) -> str:
        """Return why a module's own output cannot be mixed; empty if it can."""
        if not mixed:
            return self._unused(run)
        if any(leaf.node in self.category_ids for leaf in mixed):
            return _CODES
        before = [node for node in self.shuffles if node < max(leaf.node for leaf in mixed)]
        if 0 < len(before) < len(self.shuffles):
            return _SHUFFLED
        for leaf in run.leaves:
            if not leaf.floating and self.flow.needed[leaf.node]:
                return f"its output{_at(leaf)} is an integer tensor that depends on the batch"
        return next(filter(None, (self._batch_dim_fault(run, leaf) for leaf in mixed)), "")

    def _unused(self, run: Run) -> str:
        floating = [leaf for leaf in run.leaves if leaf.floating]
        if not floating:
            return "its output holds no floating point tensor"
        if not any(self.flow.colours[leaf.node] for leaf in floating):
            return "its output does not depend on the batch"
        if any(
            node.kind == "unseen" and self.flow.needed[index]
            for index, node in enumerate(self.first.nodes)
        ):
            return _CAUSES["unseen"]
        return "its output does not reach the model's outputs"

    def _batch_dims(self, run: Run, mixed: Sequence[Leaf]) -> Iterator[tuple[str, BatchDim]]:
        """Yield the tensors that do not hold the batch at dimension 0, and where they hold it."""
        for leaf in mixed:
            if (at := self.batch_dim(run, leaf)) not in (None, BatchDim()):
                yield leaf.path, at

    def positions(self, run: Run, mixed: Sequence[Leaf]) -> Iterator[tuple[str, Positions]]:
        """Yield the tensors whose positions can be told, and the dimensions that these are."""
        for leaf in mixed:
            found = self._position_finder.of(leaf, self.batch_dim(run, leaf))
            if found is not None:
                yield leaf.path, found

    def _front_shape(self, run: Run, leaf: Leaf) -> tuple[int, ...]:
        at = self.batch_dim(run, leaf)
        return at.front_shape(leaf.shape, self.first.batch) if at else leaf.shape

    def batch_dim(self, run: Run, leaf: Leaf) -> BatchDim | None:
        """Return where an output holds the batch; None if it does not at exactly one dimension."""
        resized = self._resized.get((run.layer, run.number, leaf.path))
        if self._follows(leaf.shape, resized):
            return BatchDim()
        if resized is None or self.second is None:
            return None
        return find(leaf.shape, self.first.batch, resized, self.second.batch)

    def _batch_dim_fault(self, run: Run, leaf: Leaf) -> str:
        """Return why an output does not hold the batch at one dimension; empty if it does."""
        resized = self._resized.get((run.layer, run.number, leaf.path))
        if self.batch_dim(run, leaf):
            return ""
        seen = f"its output{_at(leaf)} has shape {leaf.shape}"
        if self.graphs:
            return f"{seen}, {_NODES.format(self.first.batch)}"
        seen += f" for a batch of {self.first.batch}"
        if resized is None or len(resized) != len(leaf.shape):
            return f"{seen}: dimension 0 is not the batch"
        moved = _moved(leaf.shape, resized)
        if len(moved) == 1:
            return f"{seen}: dimension {moved[0]} follows the batch, but not in whole examples"
        return f"{seen}: {len(moved) or 'no'} dimensions follow the batch"

    def _bypass_reason(self, bypass: int, mixed: Sequence[int]) -> str:
        """Describe what bypasses the values ``mixed``; empty if ``bypass`` is."""
        late, passing = data_sources(bypass), data_sources(self.flow.total)
        sides = self._names(side_sources(bypass))
        targets = [name for name in (*self._names(late), *sides) if name in self.losses]
        if targets:
            given = list(dict.fromkeys(map(_argument, targets)))
            way_out = _boxes(targets) or (
                f"Omit {_listed(given)}, and wrap the criterion; for the Transformers Trainer, "
                f"manifold_mixup.integrations.transformers.add_to_trainer does both"
            )
            return (
                f"the model itself computes a loss from {_listed(given)}, with unmixed targets. "
                f"{way_out}"
            )
        if not late:
            return f"the side {_inputs(sides)} {_READ}" if sides else ""
        if cause := self._cause_outside_operators(mixed):
            return cause
        if len(late) < len(passing):
            return f"the {_inputs(self._names(late))} {_READ}"
        return self._missed_outputs(mixed)

    def _cause_outside_operators(self, mixed: Sequence[int]) -> str:
        """Return the reason if data bypasses the values outside operators; empty otherwise."""
        for kind, reason in _CAUSES.items():
            special = self._special.get(kind, [])
            if special and not data_sources(self.flow.bypassing([*mixed, *special])):
                return reason
        return ""

    def _missed_outputs(self, mixed: Sequence[int]) -> str:
        reached = 0
        for node in mixed:
            reached |= self.flow.reaches[node]
        missed = [leaf.path for index, leaf in enumerate(self.outputs) if not reached >> index & 1]
        if not missed:
            return _RESIDUAL
        some = f"output{'s' if len(missed) > 1 else ''} {_listed(missed)}"
        if not reached & 1:
            others = [leaf.path for leaf in self.outputs if leaf.path not in missed]
            return (
                f"it is on a side branch: the {some} of the model would stay unmixed. If the loss "
                f"reads only {_listed(others)}, set "
                f"outputs={repr(others[0]) if len(others) == 1 else others}"
            )
        first = self._mixed_part(missed)
        return (
            f"the auxiliary {some} of the model would stay unmixed. If the loss reads "
            f"only {first!r}, set outputs={first!r}"
        )

    def _mixed_part(self, missed: Sequence[str]) -> str:
        """Return the name of the first output, or of the tuple or dict it is in if all is mixed."""
        path = self.outputs[0].path
        whole = path.split(".")[0]
        return path if any(name.split(".")[0] == whole for name in missed) else whole

    def _depth(self, run: Run) -> float:
        if self.first.flops:
            return run.flops / self.first.flops
        return run.steps / max(self.first.steps, 1)

    def _names(self, indices: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.names[index] for index in indices)


def _inputs(names: Sequence[str]) -> str:
    return f"inputs {_listed(names)} are" if len(names) > 1 else f"input {_listed(names)} is"


def _shapes(trace: Trace | None) -> dict[tuple[str, int, str], tuple[int, ...]]:
    runs = trace.runs if trace else []
    return {(run.layer, run.number, leaf.path): leaf.shape for run in runs for leaf in run.leaves}


def _read_by_loss(trace: Trace, outputs: Sequence[str] | None) -> Trace:
    """Return the recording with only those outputs that the loss reads."""
    return replace(trace, outputs=[leaf for leaf in trace.outputs if is_named(leaf.path, outputs)])


def _beside(
    traces: Traces, outputs: Sequence[str] | None
) -> list[tuple[Leaf, tuple[int, ...] | None]]:
    """List the outputs that need not be mixed, with their shapes for another batch size.

    These are the ones that the loss does not read, and integers: no derivative reaches them.
    """
    resized = _output_shapes(traces.second)
    return [
        (leaf, resized.get(leaf.path))
        for leaf in traces.first.outputs
        if not (leaf.floating and is_named(leaf.path, outputs))
    ]


def _output_shapes(trace: Trace | None) -> dict[str, tuple[int, ...]]:
    return {leaf.path: leaf.shape for leaf in trace.outputs} if trace else {}


def _moved(shape: tuple[int, ...], resized: tuple[int, ...]) -> list[int]:
    """List the dimensions that the batch size changes."""
    return [dim for dim in range(len(shape)) if resized[dim] != shape[dim]]


def _at(leaf: Leaf) -> str:
    return f" {leaf.path!r}" if leaf.path else ""


def _boxes(names: Iterable[str]) -> str:
    """Return the way out if there are boxes of objects among these inputs; empty otherwise."""
    return _BOXES if any(name.split(".")[-1] == "boxes" for name in names) else ""


_RETURN_OUTPUTS = "Return the model's outputs instead, and wrap the criterion"
_BOXES = (
    "Sets of boxes have no mean: leave a detector unmixed; or compute its losses outside of it, "
    "from outputs with a row for each image, in a wrapped criterion whose target is "
    "torch.arange(batch), and which takes the boxes by these numbers"
)


def _argument(path: str) -> str:
    """Return the list that holds the items of a target, such as the boxes of each image."""
    parts = path.split(".")
    items = (n for n, part in enumerate(parts[:-1]) if n and part.isdigit())
    return ".".join(parts[: next(items, len(parts))])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))
