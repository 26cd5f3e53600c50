"""Build a row for each module and input of a recorded pass: whether it can be mixed, or why not."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._masks import is_side
from manifold_mixup._outputs import is_named, require_known
from manifold_mixup._positions import Positions
from manifold_mixup._structure.batch_dims import BatchDims
from manifold_mixup._structure.bypass import Bypasses
from manifold_mixup._structure.flow import Flow, data_colour, data_sources, side_colour
from manifold_mixup._structure.interactions import interacting_operators
from manifold_mixup._structure.mixability import Depth, MixabilityFinder
from manifold_mixup._structure.model_outputs import ModelOutputs
from manifold_mixup._structure.plain_outputs import PlainOutputs
from manifold_mixup._structure.positions import PositionFinder
from manifold_mixup._structure.recorded import Leaf, Run, Trace
from manifold_mixup._structure.row import InputRow, LayerRow
from manifold_mixup._structure.state_faults import StateFaults
from manifold_mixup._structure.trace import Traces


class RowBuilder:
    """Builds the rows from the recordings of a forward pass.

    Args:
        traces: the recordings.
        mask: name of an input that always counts as a side input.
        outputs: paths of the outputs that the loss reads; None means all.

    Attributes:
        first: the recording, with only the outputs that the loss reads.
        second: that with another batch size, if there is one.
        dims: where inputs, states and outputs hold the batch.
        flow: the flow to the outputs that must be mixed.
        losses: names of the inputs that only a loss inside the model reads.
        fault: why no layer can be mixed; empty if some may be.

    Raises:
        ValueError: one of ``outputs`` matches no output of the model.
    """

    def __init__(
        self, traces: Traces, mask: str | None = None, outputs: Sequence[str] | None = None
    ) -> None:
        require_known([leaf.path for leaf in traces.first.outputs], outputs)
        self._scripted, self._mask = traces.scripted, mask
        first = self.first = _read_by_loss(traces.first, outputs)
        second = self.second = traces.second and _read_by_loss(traces.second, outputs)
        self.dims = BatchDims(first, second, graphs=traces.graphs)
        self.flow = self._flow([leaf for leaf in first.outputs if leaf.floating])
        read = ModelOutputs(self.dims, self.flow)
        if len(read.chosen) < len(self.flow.outputs):
            self.flow = self._flow(read.chosen)
        names = [leaf.path for leaf in first.inputs]
        self.losses = tuple(names[index] for index in read.targets)
        self.fault = read.fault(names, packs=self.packs)
        self._positions = PositionFinder(first, self.flow.colours)
        self._plain = PlainOutputs(traces, outputs, self.dims)
        self._faults = StateFaults(first, self.flow, self.dims)
        self._mixability = MixabilityFinder(
            first,
            second,
            self.flow,
            Bypasses(first, self.flow, read.chosen, self.losses),
            self._positions,
            mask=mask,
            targets=self.losses,
            graphs=traces.graphs,
        )

    def _flow(self, outputs: Sequence[Leaf]) -> Flow:
        inputs, nodes = self.first.inputs, [leaf.node for leaf in outputs]
        batched = [index for index in range(len(inputs)) if self.dims.holds_examples(index)]
        starts = {inputs[index].node: self._start(index) for index in batched}
        flow = Flow(self.first.nodes, starts, nodes)
        if not data_sources(flow.total):
            # No input is floating point or chooses rows: the bytes of an image, for example.
            starts = {inputs[index].node: data_colour(index) for index in batched}
            flow = Flow(self.first.nodes, starts, nodes)
        return flow

    def _start(self, index: int) -> int:
        leaf = self.first.inputs[index]
        side = is_side(leaf.path, self._mask, floating=leaf.floating)
        return side_colour(index) if side else data_colour(index)

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
        if self._scripted and counts[0] != counts[1]:
            return ()  # the first run of TorchScript is not optimised, the second is
        return tuple(dict.fromkeys(interacting_operators(first, second, counts)))

    @property
    def packs(self) -> bool:
        """Whether the model packs sequences, by their lengths."""
        return any(node.operator == "_pack_padded_sequence" for node in self.first.nodes)

    def row(self, run: Run) -> LayerRow:
        """Describe a module by one run."""
        floating = [leaf for leaf in run.leaves if leaf.floating]
        mixed = self.mixed(run)
        time = max((leaf.node for leaf in run.leaves), default=0) + 1
        shapes = [self.dims.front_shape(run, leaf) for leaf in mixed]
        depth = Depth(mixed, time, run.steps, shapes, run.checkpointed)
        result = self._mixability.at(self.fault or self.own_fault(run, mixed), depth)
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
            batch_dims=tuple(self.dims.elsewhere(run, mixed)),
            shapes=tuple((leaf.path, leaf.shape) for leaf in mixed),
            positions=tuple(self.positions(run, mixed)),
            plain_outputs=self.plain_outputs(mixed),
        )

    def input_row(self, index: int) -> InputRow:
        """Describe input number ``index``."""
        leaf = self.first.inputs[index]
        data = bool(self.flow.total & data_colour(index))
        side = bool(self.flow.total & side_colour(index))
        depth = Depth([leaf] if data else [], self.first.first_computed, 0, [leaf.shape])
        fault = self.fault or self._faults.of_input(leaf, data=data, side=side)
        result, batched = self._mixability.at(fault, depth), self.dims.is_batched(index)
        return InputRow(
            name=leaf.path,
            shape=leaf.shape,
            floating=leaf.floating,
            batch=0 if batched else None,
            kind="data" if data else "side" if side else "constant",
            cut=not result.reason,
            side=result.sides,
            reason=result.reason,
            mask=result.mask,
            readers=result.readers,
            carries=result.carries,
            ends=result.ends,
            positions=self._positions.of(leaf, BatchDim()) if batched else None,
            plain_outputs=self.plain_outputs([leaf]),
        )

    def mixed(self, run: Run) -> list[Leaf]:
        """List the tensors in the output of a run that must be mixed."""
        return [leaf for leaf in run.leaves if leaf.floating and self.flow.needed[leaf.node]]

    def own_fault(self, run: Run, mixed: Sequence[Leaf]) -> str:
        """Return why a module's own output cannot be mixed; empty if it can."""
        return self._faults.of_output(run, mixed)

    def plain_outputs(self, mixed: Sequence[Leaf]) -> tuple[str, ...]:
        """Name the outputs, beside those to mix, that are made of the inputs without ``mixed``."""
        return self._plain.without(mixed)

    def positions(self, run: Run, mixed: Sequence[Leaf]) -> Iterator[tuple[str, Positions]]:
        """Yield the tensors whose positions can be told, and the dimensions that these are."""
        for leaf in mixed:
            found = self._positions.of(leaf, self.dims.of(run, leaf))
            if found is not None:
                yield leaf.path, found

    def _depth(self, run: Run) -> float:
        if self.first.flops:
            return run.flops / self.first.flops
        return run.steps / max(self.first.steps, 1)


def _read_by_loss(trace: Trace, outputs: Sequence[str] | None) -> Trace:
    """Return the recording with only those outputs that the loss reads."""
    return replace(trace, outputs=[leaf for leaf in trace.outputs if is_named(leaf.path, outputs)])
