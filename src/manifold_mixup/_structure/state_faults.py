"""Find why the output of a module cannot be mixed, whatever else the model does."""

from collections.abc import Sequence

from manifold_mixup._own_backward import REASON
from manifold_mixup._structure.batch_dims import BatchDims
from manifold_mixup._structure.bypass import UNSEEN
from manifold_mixup._structure.category_ids import category_id_nodes
from manifold_mixup._structure.flow import Flow, data_sources
from manifold_mixup._structure.recorded import Leaf, Run, Trace

_CODES = (
    "it holds category ids: forward casts part of it to integers that choose rows, and "
    "interpolated ids mean nothing. Mix a layer after that lookup"
)
_SHUFFLED = (
    "the rows of the batch are in a different order there: forward reorders them before this layer "
    "and restores the order after it. Mix before the first reordering or after the last"
)


class StateFaults:
    """Finds why states of a recorded pass cannot be mixed.

    Args:
        trace: the recording.
        flow: its flow.
        dims: where states hold the batch.
    """

    def __init__(self, trace: Trace, flow: Flow, dims: BatchDims) -> None:
        self._trace, self._flow, self._dims = trace, flow, dims
        self._ids = category_id_nodes(trace.nodes, [leaf.node for leaf in trace.inputs])
        self._reorderings = self._reordered()

    def _reordered(self) -> list[int]:
        """List the values in which all data has reordered rows."""
        return [
            found.node
            for found in self._trace.interactions
            if found.reorders
            and found.lengths[:1] == (self._trace.batch,)
            and self._flow.needed[found.node]
            and not data_sources(self._flow.bypassing([found.node]))
        ]

    def of_output(self, run: Run, mixed: Sequence[Leaf]) -> str:
        """Return why a module's output cannot be mixed; empty if it can."""
        if not mixed:
            return self._unused(run)
        if any(leaf.node in self._ids for leaf in mixed):
            return _CODES
        if run.function:
            return REASON.format(run.function)
        last = max(leaf.node for leaf in mixed)
        before = [node for node in self._reorderings if node < last]
        if 0 < len(before) < len(self._reorderings):
            return _SHUFFLED
        for leaf in run.leaves:
            if not leaf.floating and self._flow.needed[leaf.node]:
                return f"its output{leaf.quoted} is an integer tensor that depends on the batch"
        return next(filter(None, (self._dims.fault(run, leaf) for leaf in mixed)), "")

    def of_input(self, leaf: Leaf, *, data: bool, side: bool) -> str:
        """Return why an input cannot be interpolated; empty if it can.

        Args:
            leaf: the input.
            data: whether an output depends on its data.
            side: whether one depends on it in another way.
        """
        if side and not data:
            return "it is a side input"
        if not data:
            return "no output depends on it, or it has no batch"
        if not leaf.floating:
            return "it is not floating point"
        return self._dims.input_fault(leaf) or (_CODES if leaf.node in self._ids else "")

    def _unused(self, run: Run) -> str:
        floating = [leaf for leaf in run.leaves if leaf.floating]
        if not floating:
            return "its output holds no floating point tensor"
        if not any(self._flow.colours[leaf.node] for leaf in floating):
            return "its output does not depend on the batch"
        if any(
            node.kind == "unseen" and self._flow.needed[index]
            for index, node in enumerate(self._trace.nodes)
        ):
            return UNSEEN
        return "its output does not reach the model's outputs"
