"""The source of an output: the passes that made it, whose targets a loss mixes alike."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from torch import Tensor

from manifold_mixup._attach.claims import Outputs
from manifold_mixup._plan import MixPlan
from manifold_mixup._storage import memory_of
from manifold_mixup._tree import leaves


class KnownPasses(Protocol):
    """The passes of a model.

    Attributes:
        direct: whether the output looked up last is what the latest pass returned.
    """

    direct: bool

    def require_batch(self, output: Tensor, target: Any, batch: int) -> None:
        """Raise ValueError if an output was transposed, and a target may have been or not."""

    def returned(self, tensor: Tensor) -> bool:
        """Return whether a pass returned a tensor, or it was computed from what a pass returned."""


class Source:
    """The source of an output: passes with the same plan, and the nodes of their tensors.

    Nodes of None mean everything that the pass returned.

    Args:
        parts: the outputs of the passes, each with its nodes.
        passes: the known passes of the model.
        batch_dim: the dimension of outputs and targets that holds the batch.

    Attributes:
        learns: whether gradients of the output can reach the model; otherwise it is only logged.
        looked_at: whether it is looked for what should be mixed with the outputs and is not.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Outputs, Collection[int] | None]],
        passes: KnownPasses | None = None,
        batch_dim: int = 0,
    ) -> None:
        self.parts = parts
        self.batch_dim = batch_dim
        self.learns = True
        self.looked_at = bool(parts) and parts[0][0].watch is not None
        self._passes = passes

    @property
    def plan(self) -> MixPlan | None:
        """The plan of the passes; None if they were not mixed."""
        return self.parts[0][0].plan if self.parts else None

    def claim(self) -> None:
        """Note that the targets of these outputs were mixed."""
        for outputs, nodes in self.parts:
            outputs.claim(nodes)

    def claim_provisionally(self, by: object) -> None:
        """Note a claim that `withdraw_claim` can undo, by the same key."""
        for outputs, nodes in self.parts:
            outputs.claim_provisionally(by, nodes)

    def require_batch(self, output: Any, target: Any) -> None:
        """Raise ValueError if the batch of a target cannot be told, as that of the output moved."""
        plan = self.plan
        if plan is None or self._passes is None or self._passes.direct:
            return
        if isinstance(output, Tensor) and output.grad_fn is not None:
            self._passes.require_batch(output, target, plan.batch)

    def note_loss(self, begin: int, end: int) -> None:
        """Note the numbers of the nodes that a wrapped criterion made."""
        for outputs, _ in self.parts:
            if outputs.watch is not None:
                outputs.watch.losses.append((begin, end))

    def withdraw_claim(self, by: object) -> None:
        """Undo the claims that `claim_provisionally` noted by this key."""
        for outputs, _ in self.parts:
            outputs.withdraw_claim(by)

    def require_returned(self, output: Any) -> None:
        """Raise ValueError if an output contains a batched tensor that no pass returned.

        It would stay unmixed while the targets are mixed.
        """
        if self.plan is None or self._passes is None or isinstance(output, Tensor):
            return
        for path, tensor in leaves(output):
            dim = self.batch_dim if tensor.ndim > self.batch_dim else 0
            rows = tensor.ndim > 0 and tensor.shape[dim] == self.plan.batch
            if rows and not self._passes.returned(tensor):
                raise ValueError(_BESIDE.format(path, tuple(tensor.shape)))

    def plain_in(self, output: Any) -> tuple[Tensor, ...]:
        """List the tensors in an output that are the examples' own: see `Outputs.plain`.

        Raises:
            ValueError: it holds another tensor in the memory of one, whose rows are not known.
        """
        plain = [one for outputs, _ in self.parts for one in outputs.plain]
        if not plain or isinstance(output, Tensor):
            return ()
        memories = [memory_of(one) for one in plain]
        found = []
        for path, tensor in leaves(output):
            memory = None if tensor.grad_fn is not None else memory_of(tensor)
            if any(tensor is one for one in plain):
                found.append(tensor)
            elif memory is not None and any(memory is one for one in memories):
                raise ValueError(_VIEW.format(path, tuple(tensor.shape)))
        return tuple(found)


_BESIDE = (
    "the output holds at {!r} a tensor of shape {} that no forward pass of the attached model "
    "returned, so it is not mixed like the rest. If it comes from the data or from another model, "
    "such as a teacher, pass it to the criterion as a separate argument and name that argument in "
    "with_target=. Compute a loss of another model's output with a separate criterion."
)
_VIEW = (
    "the output holds at {!r} a tensor of shape {} in the memory of one that the model returned "
    "without mixing it, such as a mask. Give the criterion one of them, as the model returned it "
    "with the batch first, and take the part of it there; or pass the part as a separate argument, "
    "with the batch first, and name that argument in with_target=."
)
