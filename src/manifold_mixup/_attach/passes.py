"""Which forward pass: the running one, the one behind an output, the one being recomputed."""

import sys
import weakref
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd
from manifold_mixup._attach.claims import Memories, Outputs
from manifold_mixup._plan import MixPlan
from manifold_mixup._tree import leaves


class ForwardPass:
    """One forward pass: what it mixed, and its stretch of the autograd graph."""

    def __init__(
        self,
        outputs: Outputs,
        training: bool,
        nested: bool = False,
        valid: Tensor | None = None,
    ) -> None:
        self.plan = outputs.plan
        self.outputs = outputs
        self.valid = valid  # what is no padding, if that is to be minded
        # Masks that were mixed, with their form: the blocks of a model are all given the same.
        self.masks: list[tuple[Tensor, Any, Tensor]] = []
        self.training = training
        self.nested = nested  # in another pass, and one of the two is mixed
        self.runs: Counter[str] = Counter()  # by layer; compiled code does not count
        self.begin = _autograd.next_number()
        self.end = sys.maxsize  # while it runs, what comes is its own

    def unmix(self) -> None:
        """Drop the plan: its layer was skipped, so nothing was mixed."""
        self.plan = self.outputs.plan = None

    def holds(self, number: int) -> bool:
        """Return whether the node with this number was made in this pass."""
        return self.begin <= number < self.end

    def require_tensor(self, output: Any) -> None:
        """Raise when a mixed pass returned nothing by which it could be known again."""
        if self.plan is not None and self.training and next(leaves(output), None) is None:
            raise TypeError(
                f"the forward pass mixed the hidden state at {self.plan.layer!r}, but returned a "
                f"{type(output).__name__} without a tensor in it, so that a loss cannot be traced "
                f"back to its plan. Return tensors, in tuples, dicts or dataclasses if you like."
            )


class Source:
    """Where an output came from: passes with one plan, and the nodes of their tensors.

    Nodes of None stand for all that the pass returned.

    Args:
        parts: the passes, each with the nodes.
        passes: those that are known.

    Attributes:
        learns: whether gradients of the output can reach the model; else it is merely logged.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Outputs, Collection[int] | None]],
        passes: "Passes | None" = None,
    ) -> None:
        self.parts = parts
        self.learns = True
        self._passes = passes

    @property
    def plan(self) -> MixPlan | None:
        """What the passes mixed; None for nothing."""
        return self.parts[0][0].plan if self.parts else None

    def claim(self) -> None:
        """Note that the targets of these outputs were mixed."""
        for outputs, nodes in self.parts:
            outputs.claim(nodes)

    def require_own(self, output: Any) -> None:
        """Raise if an output holds something with the batch that no pass of the model returned.

        It would stay as it is, while the targets are mixed.

        Raises:
            ValueError: it does.
        """
        if self.plan is None or self._passes is None or isinstance(output, Tensor):
            return
        for path, tensor in leaves(output):
            rows = tensor.ndim > 0 and tensor.shape[0] == self.plan.batch
            if rows and not self._passes.known(tensor):
                raise ValueError(_BESIDE.format(path, tuple(tensor.shape)))


class Passes:
    """The forward passes of one model that can still be asked for."""

    def __init__(self, model: nn.Module, named: Sequence[str] | None = None) -> None:
        self.model = model
        self.named = named  # paths of the outputs that the loss reads; None for all
        self.checked = False  # whether the structural view found all layers good
        self.running: ForwardPass | None = None
        self.latest: ForwardPass | None = None
        # A pass lives as long as the graph of its output, which holds it.
        self._alive: weakref.WeakSet[ForwardPass] = weakref.WeakSet()
        self._memories = Memories()

    def start(
        self, plan: MixPlan | None, *, training: bool, valid: Tensor | None = None
    ) -> ForwardPass:
        """Open a pass; it is the running one until `finish`."""
        outer = self.running
        nested = outer is not None and bool(plan or outer.plan)
        outputs = Outputs(plan, self.named, exempt=self.checked)
        self.running = ForwardPass(outputs, training, nested, valid)
        self._alive.add(self.running)
        return self.running

    def finish(self, output: Any) -> Any:
        """Close the running pass and return its output, whose graph keeps the pass from now on."""
        finished, self.running = self.running, None
        if finished is None:
            return output
        output = finished.outputs.hand_out(output, keep=finished)
        finished.end = _autograd.next_number()
        self.latest = finished
        self._memories.note(output, finished.outputs)
        return output

    def refuse_nesting(self) -> None:
        """Raise if another pass of the model, inside the one that ends, has taken its place."""
        if self.latest is not None and self.latest.nested:
            raise RuntimeError(
                "the model was called inside its own forward pass, so that one state would be "
                "mixed by two plans. Attach to the part of the model that is called in it."
            )

    def at(self, layer: str) -> ForwardPass | None:
        """Return the pass in which ``layer`` has just run, and count the run.

        A layer that is called on its own, outside of any pass, has none.
        """
        recomputed = self.recomputed()
        owner = recomputed or self._unfinished()
        if owner is not None and recomputed is None:
            owner.runs[layer] += 1
        return owner

    def current(self) -> ForwardPass | None:
        """Return the pass that is being recomputed, or else the running one."""
        return self.recomputed() or self._unfinished()

    def _unfinished(self) -> ForwardPass | None:
        # No hook tells of a pass that was interrupted from the keyboard. It is over at the latest
        # when the model is in eval mode.
        running = self.running
        over = running is not None and running.training and not self.model.training
        return None if over else running

    def recomputed(self, *, strict: bool | None = None) -> ForwardPass | None:
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

    def behind(self, output: Any, *, train_mode: bool) -> Source:
        """Return which pass made ``output``, and which of its tensors it was computed from.

        Args:
            output: what the model returned, or something computed from it; None for the latest
                pass. Without an autograd graph it has to lie in the memory of what was returned.
            train_mode: whether the model is in train mode now.

        Raises:
            RuntimeError: in training, there is no such pass, or more than one.
        """
        training = train_mode and torch.is_grad_enabled()
        if training and self.latest is None and self.running is None:
            raise RuntimeError(_NO_PASS)
        source = Source(self._by_graph(output) or self._memories.of(output), self)
        if len({id(outputs.plan) for outputs, _ in source.parts}) > 1:
            raise RuntimeError(_SEVERAL)
        if source.parts:
            source.learns = torch.is_grad_enabled() and _requires_grad(output)
            return source
        if training and output is not None:
            graph = any(tensor.grad_fn is not None for _, tensor in leaves(output))
            raise RuntimeError(_FOREIGN if graph else _DETACHED)
        # An output of an evaluation was not made by the training pass before it.
        evaluated = not train_mode or (output is not None and not torch.is_grad_enabled())
        if self.latest is None or (self.latest.training and evaluated):
            return Source([])
        return Source([(self.latest.outputs, None)])

    def require_data(self, target: Any) -> None:
        """Raise if a target was computed by a mixed pass, as with arguments the wrong way round.

        Raises:
            ValueError: it was.
        """
        for path, tensor in leaves(target):
            plan = self._made(tensor)
            if plan is not None:
                raise ValueError(_SWAPPED.format(path and f" {path!r}", plan.layer))

    def _made(self, tensor: Tensor) -> MixPlan | None:
        """Return the plan of the mixed pass that computed a tensor, detached or not."""
        if tensor.grad_fn is not None:
            found = self._by_graph(tensor)
        else:  # an input that the model returns as it is was not computed: it has no node
            found = [(outputs, nodes) for outputs, nodes in self._memories.of(tensor) if nodes]
        return next((outputs.plan for outputs, _ in found if outputs.plan is not None), None)

    def known(self, tensor: Tensor) -> bool:
        """Return whether a tensor was returned by a pass, or computed from what one returned."""
        return bool(self._by_graph(tensor) or self._memories.of(tensor))

    def _by_graph(self, output: Any) -> list[tuple[Outputs, set[int]]]:
        """List the passes that the autograd graph of ``output`` meets first."""
        met: dict[ForwardPass, set[int]] = {}

        def note(number: int) -> bool:
            owner = self._owner(number)
            if owner is not None:
                met.setdefault(owner, set()).add(number)
            return owner is not None

        floor = min((known.begin for known in self._alive), default=0)
        _autograd.search((tensor for _, tensor in leaves(output)), floor, note)
        return [(owner.outputs, nodes) for owner, nodes in met.items()]

    def _owner(self, number: int) -> ForwardPass | None:
        return next((known for known in self._alive if known.holds(number)), None)


def _requires_grad(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.requires_grad
    return any(tensor.requires_grad for _, tensor in leaves(output))


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
_DETACHED = (
    "this output has no autograd graph and is not what the attached model returned, so it cannot "
    "be told which forward pass it came from. Give the criterion the model's output before it is "
    "detached, and compute what is merely logged, or comes from another model, inside "
    "torch.no_grad() or by the plain criterion. If the criterion takes an object that hides its "
    "tensors, such as a distribution, call mixup.target(y, output).loss(criterion, value)."
)
_SWAPPED = (
    "the target{} was computed by a forward pass that mixed the hidden state at {!r}. A criterion "
    "is called as criterion(output, target): are the two the wrong way round? If the model's own "
    "output is meant to be a target, as in self-distillation, it is mixed already: compute that "
    "loss by the plain criterion and call mixup.target(None, output) for it; or make the target in "
    "a pass of its own in mixup.paused()."
)
_BESIDE = (
    "the output holds at {!r} a tensor of shape {} that no forward pass of the attached model "
    "returned, so it is not mixed as the rest is. If it comes from the data or from another model, "
    "such as a teacher, give it to the criterion as an argument of its own and name that in "
    "with_target=; a loss of another model's output has a criterion of its own."
)
_SEVERAL = (
    "this output was computed from several forward passes, which mixed differently. Give the "
    "criterion the output of one pass at a time and add the losses."
)
