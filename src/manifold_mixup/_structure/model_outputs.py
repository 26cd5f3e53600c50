"""Choose the outputs of a model that must be mixed, or find why no layer can mix them."""

from collections.abc import Sequence

from manifold_mixup._structure.batch_dims import BatchDims
from manifold_mixup._structure.flow import Flow, data_sources, side_sources
from manifold_mixup._structure.losses_inside import way_out
from manifold_mixup._structure.recorded import Leaf

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
_LIST_OF_SEVERAL = (
    "{0!r} is a list with several tensors for each example, such as its boxes, which are no rows. "
    "If they are targets, call the model without them, and compute the loss outside, from what it "
    "returns for each example. If they are inputs, stack them before the model is called: "
    "torch.utils.data.default_collate({0})"
)
_NO_TENSOR = (
    "the model returns no floating point tensor (in tuples, dicts or dataclasses). Return the "
    "parameters of a distribution as tensors, and make the distribution in the criterion"
)
_COMPARISON = (
    "dimension {} of the model's output{} of shape {} also follows the batch: it compares examples "
    "with each other, and such a comparison has no mixed targets. Return the states that are "
    "compared instead"
)
_ONE_NUMBER = "the model returns a single number, a loss computed inside it. {}"
_RETURN_OUTPUTS = "Return the model's outputs instead, and wrap the criterion"
_MOVED = (
    "the model is given the batch at dimension 0, and returns it at dimension {0} of its output{1} "
    "of shape {2}. Return it with the batch first, output.movedim({0}, 0). A criterion that needs "
    "it elsewhere, such as CTCLoss, can be given output.movedim(0, {0})"
)
NOT_FIRST = "dimension 0 of the model's inputs, the batch, is not dimension 0 of its output"
"""How the fault begins if the outputs have other rows than the inputs."""
_NOT_FIRST = (
    f"{NOT_FIRST} of shape {{}}. "
    "Put the batch first in both (batch_first=True in recurrent layers), or set batch_dim=1 if it "
    "is dimension 1 of the inputs; give a single example a batch dimension. For graphs batched as "
    "one, where dimension 0 counts nodes, pass the model the graph of each node (0, 0, 1, ...), or "
    "attach to the module after the pooling: ManifoldMixup(model.head, ['input'])"
)


class ModelOutputs:
    """The outputs of a recorded pass that the loss reads.

    Args:
        dims: where the recordings hold the batch; they have no other outputs.
        flow: the flow to all floating point outputs.

    Attributes:
        chosen: the outputs that must be mixed.
        targets: the inputs that only a loss inside the model reads, by index.
    """

    def __init__(self, dims: BatchDims, flow: Flow) -> None:
        self._dims, self._flow = dims, flow
        self.chosen, self.targets = self._choose()

    def _choose(self) -> tuple[list[Leaf], list[int]]:
        """Choose the outputs that must be mixed, and list the inputs that are targets.

        An output without a batch dimension, such as a balancing loss, does not depend on the order
        of the examples and may be ignored. The exception is one computed from an input that nothing
        else reads: that input is a target, and the output a loss inside the model.
        """
        floating = [leaf for leaf in self._dims.first.outputs if leaf.floating]
        batched = [leaf for leaf in floating if self._dims.output_changes(leaf)]
        if not batched:
            return floating, []
        read = {source for leaf in batched for source in self._sources_of(leaf)}
        losses = [
            leaf for leaf in floating if leaf not in batched and set(self._sources_of(leaf)) - read
        ]
        targets = {source for leaf in losses for source in self._sources_of(leaf)} - read
        return batched + losses, sorted(targets)

    def _sources_of(self, leaf: Leaf) -> list[int]:
        colours = self._flow.colours[leaf.node]
        return data_sources(colours) + side_sources(colours)

    def fault(self, names: Sequence[str], *, packs: bool) -> str:
        """Return why the outputs rule out every layer; empty if they do not.

        Args:
            names: names of the inputs.
            packs: whether the model packs sequences, by their lengths.
        """
        if not self.chosen:
            return _NO_TENSOR
        first = [leaf for leaf in self.chosen if self._dims.output_is_batched(leaf)]
        for leaf in first:
            if len(changed := self._dims.dims_of_output(leaf)) > 1:
                return _COMPARISON.format(changed[1], leaf.quoted, leaf.shape)
        if first:
            return ""
        shape = self.chosen[0].shape
        if shape == ():
            return _ONE_NUMBER.format(way_out(names) or _RETURN_OUTPUTS)
        graphs = self._dims.graphs
        fault = "" if graphs else self._moved_fault(packs=packs) or self._list_fault(names)
        return fault or _NOT_FIRST.format(shape)

    def _moved_fault(self, *, packs: bool) -> str:
        """Return why outputs with the batch elsewhere rule out every layer; empty without any."""
        for leaf in self.chosen:
            changed = self._dims.dims_of_output(leaf)
            if changed[:1] == [0]:
                return self._rows_fault(leaf, packs=packs)
            if len(changed) == 1:
                return _MOVED.format(changed[0], leaf.quoted, leaf.shape)
        return ""

    def _list_fault(self, names: Sequence[str]) -> str:
        """Return a reason if the inputs are a list with one or more tensors for each example."""
        items: dict[tuple[str, bool], set[str]] = {}
        for name in names:
            parts = name.split(".")
            place = next((n for n, part in enumerate(parts) if part.isdigit()), 0)
            several = place < len(parts) - 1
            items.setdefault((".".join(parts[:place]), several), set()).add(parts[place])
        rows = {leaf.shape[:1] for leaf in self.chosen}
        for (name, several), indices in items.items():
            if name and len(indices) > 1 and rows == {(len(indices),)}:
                return (_LIST_OF_SEVERAL if several else _LIST).format(name)
        return ""

    def _rows_fault(self, leaf: Leaf, *, packs: bool) -> str:
        """Return what the rows of an output are, if not one of each example."""
        first, second = self._dims.first, self._dims.second
        assert second is not None
        rows, others = leaf.shape[0], self._dims.resized(leaf)[0]
        several = rows // first.batch
        each = (rows, others) == (several * first.batch, several * second.batch)
        fault = _SEVERAL_ROWS if each and not packs else _NO_ROWS
        return fault.format(f"{leaf.quoted} of shape {leaf.shape}", several)
