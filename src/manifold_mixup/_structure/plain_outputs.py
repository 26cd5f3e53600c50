"""Find the outputs that need not be mixed and are made of the inputs, not of a mixed state.

Such an output, a mask or ids beside the logits, belongs to the examples like a target.
"""

import functools
from collections.abc import Sequence

from manifold_mixup._outputs import is_named
from manifold_mixup._structure.batch_dims import BatchDims, output_shapes
from manifold_mixup._structure.recorded import Leaf
from manifold_mixup._structure.trace import Traces


class PlainOutputs:
    """The outputs with a row for each example that are not mixed, and what they are made of.

    Not mixed are those that the loss does not read, and integers: no derivative reaches them.

    Args:
        traces: the recordings, with all outputs.
        outputs: paths of the outputs that the loss reads; None means all.
        dims: where the batch is.
    """

    def __init__(self, traces: Traces, outputs: Sequence[str] | None, dims: BatchDims) -> None:
        self._traces, self._read, self._dims = traces, outputs, dims

    def without(self, mixed: Sequence[Leaf]) -> tuple[str, ...]:
        """Name the outputs that are made of the inputs without the values ``mixed``."""
        nodes = {leaf.node for leaf in mixed}
        return tuple(path for path, made_of in self._of_inputs if nodes.isdisjoint(made_of))

    @functools.cached_property
    def _of_inputs(self) -> list[tuple[str, set[int]]]:
        """The outputs that are made of inputs, and all that made them."""
        first, dims = self._traces.first, self._dims
        given = {leaf.node for i, leaf in enumerate(first.inputs) if dims.holds_examples(i)}
        resized = output_shapes(self._traces.second)
        rows = [
            leaf
            for leaf in first.outputs
            if not (leaf.floating and is_named(leaf.path, self._read))
            and dims.follows(leaf.shape, resized.get(leaf.path))
        ]
        found = [(leaf.path, self._made_of(leaf.node)) for leaf in rows]
        return [(path, made_of) for path, made_of in found if not given.isdisjoint(made_of)]

    def _made_of(self, node: int) -> set[int]:
        """Return a value and all that it was computed from."""
        found, open_nodes = {node}, [node]
        while open_nodes:
            new = set(self._traces.first.nodes[open_nodes.pop()].parents) - found
            found |= new
            open_nodes += new
        return found
