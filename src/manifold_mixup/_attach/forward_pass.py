"""One forward pass: its plan, what ran in it, and its range of autograd sequence numbers."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd
from manifold_mixup._attach.claims import Outputs
from manifold_mixup._plan import MixPlan
from manifold_mixup._tree import leaves
from manifold_mixup._weigh.completion import Completion, completed, needs_completion

if TYPE_CHECKING:
    from manifold_mixup._attach.copies import Copies


class Runs(dict[str, int]):
    """How often each layer ran; those that did not, which are not in it, ran 0 times."""

    def __missing__(self, layer: str) -> int:
        return 0


class ForwardPass:
    """One forward pass: its plan, and its range of autograd sequence numbers."""

    def __init__(
        self,
        outputs: Outputs,
        training: bool,
        nested: bool = False,
        valid: Tensor | None = None,
    ) -> None:
        self.plan = self.drawn = outputs.plan
        self.completed_in: nn.Module | None = None  # the compiled module that completed the plan
        self.outputs = outputs
        self.valid = valid  # valid positions; None without a mask
        # Masks that were already mixed, with their form, because many blocks read the same mask.
        self.masks: list[tuple[Tensor, Any, Tensor]] = []
        # Carried tensors that were already mixed, while the pass runs.
        self.carried: list[tuple[Tensor, Tensor]] = []
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # while it runs
        # If forward may write into its arguments.
        self.copies: Copies | None = None
        self.training = training
        self.learns = torch.is_grad_enabled()
        # Whether backward cannot show that what it returned is used, and no criterion was called.
        self.use_unknown = False
        self.thread = _autograd.here.thread  # whose sequence numbers it has
        self.nested = nested  # inside another pass, and one of the two is mixed
        self.runs = Runs()  # compiled code does not count
        # For shared modules: when their runs began, and the latest checkpoint around one.
        self.starts: dict[str, list[Any]] = {}
        self.checkpoints: dict[str, Any] = {}
        self.begin = _autograd.next_number()
        self.mixed_from = 0  # the first number since the layer was mixed; 0 if it is not known
        self.end = sys.maxsize  # while it runs, all new nodes are its own

    def unmix(self) -> None:
        """Drop the plan: its layer was skipped, so nothing was mixed."""
        self.plan = self.outputs.plan = None

    def completed_plan(self, complete_by: Callable[[MixPlan], Completion]) -> MixPlan:
        """Return the plan, completed by what it means for the state of its layer.

        Args:
            complete_by: finds what it means, if that is not known.
        """
        assert self.plan is not None
        if needs_completion(self.plan):
            self.complete(complete_by(self.plan))
        return self.plan

    def complete(self, completion: Completion) -> None:
        """Complete the plan by what it means for the state of its layer."""
        assert self.plan is not None
        self.plan = self.outputs.plan = completed(self.plan, completion)

    def made_node(self, number: int) -> bool:
        """Return whether the node with this sequence number was made in this pass."""
        return self.begin <= number < self.end

    def require_tensor(self, output: Any) -> None:
        """Raise TypeError if a mixed pass returned no tensor that can be traced back to it."""
        if self.plan is None or not self.training:
            return
        if next(leaves(output), None) is None:
            raise TypeError(
                f"the forward pass mixed the hidden state at {self.plan.layer!r}, but returned a "
                f"{type(output).__name__} without tensors, so a loss cannot be traced back to its "
                f"plan. Return tensors, or tuples, dicts or dataclasses of tensors."
            )
