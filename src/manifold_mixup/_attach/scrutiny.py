"""Look for what should be mixed with an output and is not, from its forward pass to backward."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from manifold_mixup import _autograd
from manifold_mixup._attach.claims import Outputs, Watch
from manifold_mixup._attach.forward_pass import ForwardPass
from manifold_mixup._tree import leaves
from manifold_mixup._warn import warn

_FIRST = 8
"""Mixed passes that are looked at in any case; of later ones, fewer and fewer are."""
_LOOKS = 4
"""Outputs whose order is looked at even if that waits for a GPU."""


class Origins(Protocol):
    """Tells which nodes the passes of a model made.

    Attributes:
        output_dim: the dimension of outputs and targets that holds the batch.
    """

    output_dim: int

    def made(self, number: int) -> bool:
        """Return whether one of them made the node with this sequence number."""


class Scrutiny:
    """What is looked for in the outputs of mixed passes; each warning is given once.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._mixed = 0  # passes that were mixed and train
        self._ordered = 0  # how often the order of rows was looked at
        self._met_data = self._other_loss = self._private = False  # what was warned of

    def look_at(self, finished: ForwardPass, output: Any, look: Callable[[Outputs], None]) -> None:
        """Let the outputs of a mixed pass be looked at, if it is one of those.

        Args:
            finished: the pass.
            output: what it returned.
            look: looks at them when backward reaches them; a method, to which nothing refers here.
        """
        self._mixed += 1
        if self._mixed > _FIRST and self._mixed & (self._mixed - 1):
            return
        if not _autograd.in_transform():
            mixed = finished.mixed_from or finished.begin, finished.end
            finished.outputs.watch = Watch(output, mixed, look)
        if self._mixed <= _FIRST and not self._private:
            from manifold_mixup._attach.private import warn_of_privacy  # once a model is mixed

            self._private = warn_of_privacy(self._model)

    def require_order(self, output: Any, known: Origins) -> None:
        """Raise ValueError if the rows of an output are not in the order of its pass any more."""
        if not isinstance(output, Tensor):
            return
        from manifold_mixup._attach.after_pass import reordering  # few outputs need it

        self._ordered += 1
        wait = self._ordered <= _LOOKS
        if by := reordering(output, known.output_dim, known.made, wait=wait):
            raise ValueError(_REORDERED.format(by))

    def require_batch(self, output: Tensor, target: Any, batch: int, known: Origins) -> None:
        """Raise ValueError if an output was transposed, and a target may have been or not."""
        from manifold_mixup._attach.after_pass import batch_moved_to  # few outputs need it

        dim, moved = known.output_dim, None
        for _, leaf in leaves(target):
            places = [place for place, size in enumerate(leaf.shape) if size == batch]
            if dim in places and len(places) > 1:
                if moved is None:
                    moved = batch_moved_to(output, dim, known.made)
                if moved != dim:
                    raise ValueError(_TRANSPOSED.format(moved, tuple(leaf.shape), places))

    def warn_of_data(self, output: Any, outputs: Outputs, known: Origins) -> None:
        """Warn if the output of a mixed pass met data of the examples after the model."""
        watch = outputs.watch
        if self._met_data or outputs.plan is None or watch is None:
            return
        from manifold_mixup._attach.met_data import After, met_by  # few outputs need it

        after = After(outputs.plan.batch, known.output_dim, known.made, watch.values)
        if by := met_by((tensor for _, tensor in leaves(output)), after):
            self._met_data = True
            warn(_MET.format(by))

    def warn_of_other_loss(self, outputs: Outputs, known: Origins) -> None:
        """Warn if backward reaches a mixed pass also from a loss that no criterion computed."""
        watch = outputs.watch
        if self._other_loss or outputs.plan is None or watch is None:
            return
        if outputs.provisional_claims or not watch.losses:  # losses by hand
            return
        from manifold_mixup._attach.other_losses import Around, other_loss, running_losses

        own = outputs.begin, watch.mixed, watch.losses, outputs.unclaimed()
        around = Around(outputs.plan.batch, known.output_dim, known.made, *own)
        if by := other_loss(running_losses(), around):
            self._other_loss = True
            warn(_OTHER_LOSS.format(outputs.plan.layer, by))


_REORDERED = (
    "the examples of the output were reordered or repeated after the forward pass, by {}, so they "
    "no longer belong to the targets with which theirs are mixed. Pass the criterion the output in "
    "the order of the batch, and reorder it inside the criterion, with its target."
)
_TRANSPOSED = (
    "the output was transposed after the forward pass, so that the batch is its dimension {}, and "
    "the target of shape {} has as many rows as there are examples at each of the dimensions {}: "
    "which of them is the batch cannot be told. Pass the criterion both as they were, and "
    "transpose them inside it."
)
_MET = (
    "after the forward pass, the output was combined with values that differ between the examples, "
    "by {}. They stay those of the examples themselves, while the targets are mixed. If they come "
    "from the data, combine them with the output in the criterion, and pass them to it in an "
    "argument that with_target= names; or attach to a model that contains this code. If they are "
    "random, or were computed from the output, nothing is wrong."
)
_OTHER_LOSS = (
    "backward reached the forward pass that mixed the hidden state at {!r} not only from wrapped "
    "criteria: another loss, with {}, seems to read the output or a hidden state, and its targets "
    "are not mixed. Wrap each loss: mixup.wrap(criterion). If it has no targets that belong to the "
    "examples, or mixes them by hand, mixup.target(None, output) says so."
)
