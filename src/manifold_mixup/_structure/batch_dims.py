"""Find where the inputs, states and outputs of a recorded pass hold the batch."""

from collections.abc import Iterator, Sequence

from manifold_mixup._batch_dim import BatchDim, find
from manifold_mixup._structure.recorded import Leaf, Run, Trace

# Why a state before the pooling of graphs has no partners.
_NODES = (
    "not a row for each of the {} graphs: nodes and edges have no partners in another graph. Mix "
    "the output of the module that pools, or a layer after it"
)


class BatchDims:
    """The batch in the tensors of a forward pass, seen by what changes with its size.

    Args:
        first: the recording.
        second: the recording with another batch size, if there is one.
        graphs: whether the examples are graphs.
    """

    def __init__(self, first: Trace, second: Trace | None, *, graphs: bool) -> None:
        self.first, self.second, self.graphs = first, second, graphs
        self._states = _state_shapes(second)
        self._outputs = output_shapes(second)

    @property
    def batch(self) -> int:
        """The number of examples in the first recording."""
        return self.first.batch

    def holds_examples(self, index: int) -> bool:
        """Return whether input number ``index`` holds the examples, or parts of them."""
        # Graphs are spread over nodes, edges and whatever else the model is given.
        return bool(self.first.inputs[index].shape) if self.graphs else self.is_batched(index)

    def is_batched(self, index: int) -> bool:
        """Return whether dimension 0 of input number ``index`` is the batch."""
        second = self.second.inputs[index].shape if self.second else None
        return self.follows(self.first.inputs[index].shape, second)

    def output_is_batched(self, output: Leaf) -> bool:
        """Return whether dimension 0 of an output is the batch."""
        return self.follows(output.shape, self._outputs.get(output.path))

    def output_changes(self, output: Leaf) -> bool:
        """Return whether the shape of an output changes with the batch, at any dimension."""
        if self._outputs.keys() == {leaf.path for leaf in self.first.outputs}:
            return self._outputs[output.path] != output.shape
        # There is one recording only, or the output is a list with one item per example.
        return output.shape != ()

    def dims_of_output(self, output: Leaf) -> list[int]:
        """List the dimensions of an output that the batch size changes."""
        return _changed(output.shape, self.resized(output))

    def resized(self, output: Leaf) -> tuple[int, ...]:
        """Return the shape of an output for the other batch size; its own if there is none."""
        return self._outputs.get(output.path, output.shape)

    def of(self, run: Run, leaf: Leaf) -> BatchDim | None:
        """Return where a state holds the batch; None if it does not at exactly one dimension."""
        resized = self._states.get((run.layer, run.number, leaf.path))
        if self.follows(leaf.shape, resized):
            return BatchDim()
        if resized is None or self.second is None:
            return None
        return find(leaf.shape, self.batch, resized, self.second.batch)

    def elsewhere(self, run: Run, mixed: Sequence[Leaf]) -> Iterator[tuple[str, BatchDim]]:
        """Yield the tensors that do not hold the batch at dimension 0, and where they hold it."""
        for leaf in mixed:
            if (at := self.of(run, leaf)) not in (None, BatchDim()):
                yield leaf.path, at

    def front_shape(self, run: Run, leaf: Leaf) -> tuple[int, ...]:
        """Return the shape of a state with the batch in front."""
        at = self.of(run, leaf)
        return at.front_shape(leaf.shape, self.batch) if at else leaf.shape

    def fault(self, run: Run, leaf: Leaf) -> str:
        """Return why a state does not hold the batch at one dimension; empty if it does."""
        if self.of(run, leaf):
            return ""
        resized = self._states.get((run.layer, run.number, leaf.path))
        seen = f"its output{leaf.quoted} has shape {leaf.shape}"
        if self.graphs:
            return f"{seen}, {_NODES.format(self.batch)}"
        seen += f" for a batch of {self.batch}"
        if resized is None or len(resized) != len(leaf.shape):
            return f"{seen}: dimension 0 is not the batch"
        changed = _changed(leaf.shape, resized)
        if len(changed) == 1:
            return f"{seen}: dimension {changed[0]} follows the batch, but not in whole examples"
        return f"{seen}: {len(changed) or 'no'} dimensions follow the batch"

    def input_fault(self, leaf: Leaf) -> str:
        """Return why an input has no row for each graph; empty if it has, or without graphs."""
        if self.graphs and leaf.shape[0] != self.batch:
            return f"it has shape {leaf.shape}, {_NODES.format(self.batch)}"
        return ""

    def follows(self, shape: tuple[int, ...], resized: tuple[int, ...] | None) -> bool:
        """Return whether dimension 0 is the batch, in both recordings."""
        if not shape or shape[0] != self.batch:
            return False
        return resized is None or self.second is None or resized[0] == self.second.batch


def _state_shapes(trace: Trace | None) -> dict[tuple[str, int, str], tuple[int, ...]]:
    runs = trace.runs if trace else []
    return {(run.layer, run.number, leaf.path): leaf.shape for run in runs for leaf in run.leaves}


def output_shapes(trace: Trace | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the outputs by path; none without a recording."""
    return {leaf.path: leaf.shape for leaf in trace.outputs} if trace else {}


def _changed(shape: tuple[int, ...], resized: tuple[int, ...]) -> list[int]:
    """List the dimensions in which two shapes differ."""
    return [dim for dim in range(len(shape)) if resized[dim] != shape[dim]]
