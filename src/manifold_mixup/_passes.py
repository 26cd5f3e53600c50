"""Which forward pass: the running one, the one behind an output, the one being recomputed."""

import sys
import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd
from manifold_mixup._plan import MixPlan
from manifold_mixup._tree import leaves


class Pass:
    """One forward pass: what it mixed, and its stretch of the autograd graph."""

    def __init__(
        self,
        plan: MixPlan | None,
        training: bool,
        nested: bool = False,
        held: Tensor | None = None,
    ) -> None:
        self.plan = plan
        self.held = held  # what is no padding, if that is to be minded
        # Masks that were mixed, with their form: the blocks of a model are all given the same.
        self.masks: list[tuple[Tensor, Any, Tensor]] = []
        self.training = training
        self.nested = nested  # in another pass, and one of the two is mixed
        self.claimed = False
        self.runs: Counter[str] = Counter()  # by layer; compiled code does not count
        self.begin = _autograd.next_number()
        self.end = sys.maxsize  # while it runs, what comes is its own

    def holds(self, number: int) -> bool:
        """Say whether the node with this number was made in this pass."""
        return self.begin <= number < self.end

    def require_tensor(self, output: Any) -> None:
        """Raise when a mixed pass returned nothing by which it could be known again."""
        if self.plan is not None and self.training and next(leaves(output), None) is None:
            raise TypeError(
                f"the forward pass mixed the hidden state at {self.plan.layer!r}, but returned a "
                f"{type(output).__name__} without a tensor in it, so that a loss cannot be traced "
                f"back to its plan. Return tensors, in tuples, dicts or dataclasses if you like."
            )

    def require_claim(self, grad: Tensor) -> None:
        """Raise when backward reaches a mixed output whose targets nobody mixed."""
        del grad
        if self.plan is not None and not self.claimed:
            raise RuntimeError(
                f"backward reached the output of a forward pass that mixed the hidden state at "
                f"{self.plan.layer!r}, but its targets were not mixed. Compute the loss with "
                f"mixup.wrap(criterion) or mixup.target(y, output). A loss inside the model "
                f"(labels= given to it) has to move out. For a backward pass with no target, "
                f"like a gradient penalty before the loss, call mixup.target(y, output) first or "
                f"run the forward pass in mixup.paused()."
            )


class Passes:
    """The forward passes of one model that can still be asked for."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.running: Pass | None = None
        self.latest: Pass | None = None
        # A pass lives as long as the graph of its output, which holds it by a tensor hook.
        self._alive: weakref.WeakSet[Pass] = weakref.WeakSet()

    def start(self, plan: MixPlan | None, *, training: bool, held: Tensor | None = None) -> Pass:
        """Open a pass; it is the running one until `finish`."""
        outer = self.running
        nested = outer is not None and bool(plan or outer.plan)
        self.running = Pass(plan, training, nested, held)
        self._alive.add(self.running)
        return self.running

    def finish(self, output: Any) -> None:
        """Close the running pass; the graph of ``output`` keeps it from now on."""
        finished, self.running = self.running, None
        if finished is None:
            return
        finished.end = _autograd.next_number()
        self.latest = finished
        for _, tensor in leaves(output):
            if tensor.grad_fn is not None:
                tensor.register_hook(finished.require_claim)

    def refuse_nesting(self) -> None:
        """Raise if another pass of the model, inside the one that ends, has taken its place."""
        if self.latest is not None and self.latest.nested:
            raise RuntimeError(
                "the model was called inside its own forward pass, so that one state would be "
                "mixed by two plans. Attach to the part of the model that is called in it."
            )

    def at(self, layer: str) -> Pass | None:
        """Return the pass in which ``layer`` has just run, and count the run.

        A layer that is called on its own, outside of any pass, has none.
        """
        recomputed = self.recomputed()
        owner = recomputed or self._unfinished()
        if owner is not None and recomputed is None:
            owner.runs[layer] += 1
        return owner

    def current(self) -> Pass | None:
        """Return the pass that is being recomputed, or else the running one."""
        return self.recomputed() or self._unfinished()

    def _unfinished(self) -> Pass | None:
        # No hook tells of a pass that was interrupted from the keyboard. It is over at the latest
        # when the model is in eval mode.
        running = self.running
        over = running is not None and running.training and not self.model.training
        return None if over else running

    def recomputed(self, *, strict: bool | None = None) -> Pass | None:
        """Return the pass that the running backward node was made in; outside backward, None.

        Args:
            strict: whether a node that no known pass made is an error; by default it is one if any
                known pass was mixed, unless a new pass is running in there.

        Raises:
            RuntimeError: there is such a node.
        """
        number = _autograd.running_number()
        if number is None:
            return None
        owner = self._owner(number)
        if strict is None:
            strict = self.running is None and any(known.plan for known in self._alive)
        if owner is None and strict:
            raise RuntimeError(
                "the model runs inside a backward pass, and it cannot be told which forward pass "
                "is being recomputed. Checkpoint the whole model, and checkpoints inside "
                "checkpoints, with use_reentrant=False, one call of the model each and the loss "
                "outside; run a new forward pass in mixup.paused()."
            )
        return owner

    def of(self, output: Any, *, train_mode: bool) -> Pass | None:
        """Return the pass that made ``output``; None if nothing was mixed.

        Args:
            output: what the model returned, or something computed from it; None for the latest
                pass. Without an autograd graph it is taken for the latest as well.
            train_mode: whether the model is in train mode now.

        Raises:
            RuntimeError: in training, there is no such pass, or more than one.
        """
        training = train_mode and torch.is_grad_enabled()
        if self.latest is None and training:
            raise RuntimeError(_NO_PASS)
        made_by = self._behind(output)
        if len({id(known.plan) for known in made_by}) > 1:
            raise RuntimeError(_SEVERAL)
        for known in made_by:
            known.claimed = True
        if made_by:
            return made_by[0]
        if training and any(tensor.grad_fn is not None for _, tensor in leaves(output)):
            raise RuntimeError(_FOREIGN)
        # An output of an evaluation was not made by the training pass before it.
        evaluated = not train_mode or (output is not None and not torch.is_grad_enabled())
        outdated = self.latest is not None and self.latest.training and evaluated
        return None if outdated else self.latest

    def _behind(self, output: Any) -> list[Pass]:
        """List the passes that the autograd graph of ``output`` meets first."""
        met: set[Pass] = set()

        def note(number: int) -> bool:
            owner = self._owner(number)
            if owner is not None:
                met.add(owner)
            return owner is not None

        floor = min((known.begin for known in self._alive), default=0)
        _autograd.search((tensor for _, tensor in leaves(output)), floor, note)
        return list(met)

    def _owner(self, number: int) -> Pass | None:
        return next((known for known in self._alive if known.holds(number)), None)


_NO_PASS = (
    "the criterion was called in training, but no forward pass of the attached model was seen. "
    "Call the model itself, not its forward method. Was it compiled before ManifoldMixup was "
    "attached to the module inside? Attach to what you call: ManifoldMixup(compiled_model, ...)."
)
_FOREIGN = (
    "the autograd graph of this output leads to no forward pass of the attached model. Give the "
    "criterion what the model returned, or something computed from it; checkpoint a whole model "
    "with use_reentrant=False, which keeps its graph. For an output of another model use the plain "
    "criterion."
)
_SEVERAL = (
    "this output was computed from several forward passes, which mixed differently. Give the "
    "criterion the output of one pass at a time and add the losses."
)
