"""Forward passes: find the running one, the source of an output, the one being recomputed."""

import sys
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd, _own_calls
from manifold_mixup._attach.claims import MemoryIndex, Outputs, Watch
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan, mixes_alike
from manifold_mixup._storage import memory_of
from manifold_mixup._tree import leaves
from manifold_mixup._warn import warn
from manifold_mixup._weigh.completion import Completion, completed, needs_completion


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
        self.training = training
        self.learns = torch.is_grad_enabled()
        # Whether backward cannot show that what it returned is used, and no criterion was called.
        self.use_unknown = False
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
        passes: "Passes | None" = None,
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


_FEW = 16
"""Passes that are referred to before it is asked which are still in use."""
_IN_VAIN = 2
"""Passes in a row that nothing seems to learn from, before it is warned of."""
_OUTSIDE = 3
"""Steps in which layers run in training, before any call of the model, that are warned of."""
_FIRST = 8
"""Mixed passes that are looked at in any case; of later ones, fewer and fewer are."""
_MOST_CHANGES = 4
"""Changes of what a pass runs for which the model is inspected again."""
_LOOKS = 4
"""Outputs whose order is looked at even if that waits for a GPU."""


class Passes:
    """The forward passes of one model whose outputs may still be used."""

    def __init__(
        self, model: nn.Module, loss_paths: Sequence[str] | None = None, output_dim: int = 0
    ) -> None:
        self.model = model
        self.output_dim = output_dim  # the dimension of outputs and targets that holds the batch
        self.loss_paths = loss_paths  # paths of the outputs that the loss reads; None for all
        self.checked = False  # whether the layers were checked
        # By layer, the outputs that are made of the inputs without it, such as a mask.
        self.plain_outputs: dict[str, frozenset[str]] = {}
        self.running: ForwardPass | None = None
        self.latest: ForwardPass | None = None
        # The graph of its output keeps a pass alive.
        self._references: list[weakref.ref[ForwardPass]] = []
        self._limit = _FEW
        self._memories = MemoryIndex()
        self.direct = False  # whether the output looked up last is what the latest pass returned
        self._unused = 0  # passes in a row without a gradient and without mixed targets
        self._ordered = 0  # how often the order of rows was looked at
        self._mixed = 0  # passes that were mixed and train
        # By layer and number of examples, how many nodes the first pass made; and by how many
        # others differ from it: False if that was not inspected.
        self._sizes: dict[tuple[str, int], int] = {}
        self._differences = {0: True}
        self._most_changes, self._now_inspected = _MOST_CHANGES, False
        self.changed = False  # whether passes run other operators than those that were inspected
        self._met_data = self._other_loss = self._private = False  # what was warned of
        self.mixes: Callable[[bool], bool] = lambda training: training  # whether passes are mixed
        # Steps of the optimizer after which layers ran in training, before any call of the model.
        self._outside, self._state_outside = 0, -1

    def start(
        self, plan: MixPlan | None, *, training: bool, valid: Tensor | None = None
    ) -> ForwardPass:
        """Open a pass; it is the running one until `finish`."""
        if training and plan is not None and self.latest is not None and self.latest.use_unknown:
            self._note_unknown_use(self.latest)
        if self.latest is not None and self.latest.outputs.watch is not None:
            self.latest.outputs.watch.values.clear()
        outer = self.running
        nested = outer is not None and bool(plan or outer.plan)
        outputs = Outputs(plan, self.loss_paths, exempt_scalars=self.checked)
        started = self.running = ForwardPass(outputs, training, nested, valid)
        if len(self._references) >= self._limit:
            self._references = [one for one in self._references if one() is not None]
            self._limit = max(_FEW, 2 * len(self._references))
        self._references.append(weakref.ref(started))
        return started

    def _alive(self) -> list[ForwardPass]:
        """List the passes whose outputs may still be used."""
        passes = (reference() for reference in self._references)
        return [one for one in passes if one is not None]

    def finish(self, output: Any) -> Any:
        """Close the running pass and return its output, whose graph keeps the pass alive."""
        finished, self.running = self.running, None
        if finished is None:
            return output
        finished.carried.clear()
        finished.checkpoints.clear()  # frames, which hold all that is in them
        output = finished.outputs.hand_out(output, finished, finished.begin)
        if self.plain_outputs and finished.plan is not None:
            paths = self.plain_outputs.get(finished.plan.layer, ())
            finished.outputs.keep_plain(output, paths)
        finished.end = _autograd.next_number()
        if finished.plan is not None and finished.training:
            self._mixed = count = self._mixed + 1
            if count <= _FIRST or not count & (count - 1):
                self._look_at(finished, output)
            size, of = (
                finished.end - finished.begin,
                (finished.plan.layer, finished.plan.perm.shape[0]),
            )
            more = size - self._sizes.setdefault(of, size)
            if self._now_inspected or not self._differences.get(more):
                self._note_difference(more)
        self.latest = finished
        if not finished.outputs.leaves and finished.training and finished.plan is not None:
            in_transform = _autograd.in_transform() or _autograd.in_forward_mode()
            finished.use_unknown = output is not None and not in_transform  # None if it failed
        else:
            self._unused = 0
        self._memories.note(output, finished.outputs)
        return output

    def _note_difference(self, more: int) -> None:
        """Note a pass with more nodes than the first, or fewer; two of them are a change."""
        if not self._now_inspected and more in self._differences and self._most_changes:
            self._most_changes -= 1
            self.changed = True
        self._differences[more] = self._now_inspected or not self._most_changes
        self._now_inspected = False

    def inspected(self) -> None:
        """Note that what the next pass runs was inspected."""
        self.changed, self._now_inspected = False, True

    def _look_at(self, finished: ForwardPass, output: Any) -> None:
        """Let it be looked for what should be mixed with the outputs of a pass and is not."""
        if not _autograd.in_transform():
            mixed = finished.mixed_from or finished.begin, finished.end
            finished.outputs.watch = Watch(output, mixed, self.warn_of_other_loss)
        if self._mixed <= _FIRST and not self._private:
            from manifold_mixup._attach.private import warn_of_privacy  # once a model is mixed

            self._private = warn_of_privacy(self.model)

    def _note_unknown_use(self, last: ForwardPass) -> None:
        """Warn if one pass after another has outputs without a gradient, and no mixed targets."""
        last.use_unknown = False
        self._unused += 1
        if self._unused == _IN_VAIN and last.plan is not None:
            warn(_FROZEN.format(last.plan.layer))

    def refuse_nesting(self) -> None:
        """Raise RuntimeError if the pass that ends contained another pass of the model."""
        if self.latest is not None and self.latest.nested:
            raise RuntimeError(
                "the model was called inside its own forward pass, so one state would be mixed by "
                "two plans. Attach to the submodule that the inner call uses."
            )

    def pass_of_run(self, layer: str) -> ForwardPass | None:
        """Return the pass in which ``layer`` has just run, and count the run.

        Return None if the layer was called on its own, outside any pass.
        """
        recomputed = self.recomputed()
        if recomputed is not None:
            return recomputed
        owner = self._running_pass()
        if owner is not None:
            owner.runs[layer] += 1
        return owner

    def note_run_outside(self, layer: str) -> None:
        """Warn if a layer runs in training again and again, but the model is never called."""
        if self.latest is not None or self._outside == _OUTSIDE:
            return
        if self.model.training and torch.is_grad_enabled() and self.mixes(True):
            # A part may run often before the model does, for another loss of the same step.
            state = sum(one._version for one in self.model.parameters() if one.requires_grad)
            self._outside += state != self._state_outside
            self._state_outside = state
            if self._outside == _OUTSIDE:
                warn(_NEVER_CALLED.format(layer, type(self.model).__name__))

    def mixes_elsewhere(self, layer: str) -> bool:
        """Return whether the running pass mixes at another layer, and nothing is recomputed."""
        running = self.running
        if running is None or running.plan is None or running.plan.layer == layer:
            return False
        return _autograd.running_node() is None

    def current(self) -> ForwardPass | None:
        """Return the pass that is being recomputed, otherwise the running pass."""
        return self.recomputed() or self._running_pass()

    def _running_pass(self) -> ForwardPass | None:
        # No hook runs after a keyboard interrupt. An interrupted pass is certainly over once the
        # model is in eval mode.
        running = self.running
        over = running is not None and running.training and not self.model.training
        return None if over else running

    def recomputed(self, *, strict: bool | None = None) -> ForwardPass | None:
        """Return the pass in which the running backward node was made; None outside backward.

        Args:
            strict: whether to raise if no known pass made the node. None means: if any known pass
                was mixed and no new pass is running.

        Raises:
            RuntimeError: no known pass made the node, and ``strict`` applies.
        """
        node = _autograd.running_node()
        if node is None:
            return None
        owner = self._pass_of_node(node._sequence_nr())
        if strict is None:
            strict = self.running is None and any(known.plan for known in self._alive())
        if owner is None and strict:
            raise RuntimeError(
                "the model runs inside a backward pass, and the forward pass that is being "
                "recomputed cannot be identified. Use use_reentrant=False for a checkpoint of the "
                "whole model and for nested checkpoints, with one model call in each and the loss "
                "outside. Run a new forward pass in mixup.paused()."
            )
        return owner

    def source_of(self, output: Any, *, train_mode: bool) -> Source:
        """Return the pass behind ``output``, and the returned tensors it was computed from.

        Args:
            output: what the model returned, or something computed from it; None for the latest
                pass. Without an autograd graph, it must share memory with what the model returned.
            train_mode: whether the model is in train mode now.

        Raises:
            RuntimeError: in training, there is no such pass, or more than one.
        """
        training = train_mode and torch.is_grad_enabled()
        if training and self.latest is None and self.running is None:
            raise RuntimeError(_NO_PASS + _own_calls.remark(self.model))
        parts = self._by_graph(output) or self._memories.of(output)
        if self.latest is not None and (parts or output is None):
            self.latest.use_unknown, self._unused = False, 0
        source = Source(parts, self, self.output_dim)
        if len(parts) > 1 and not all(mixes_alike(parts[0][0].plan, one.plan) for one, _ in parts):
            raise RuntimeError(_SEVERAL)
        if source.parts:
            source.learns = torch.is_grad_enabled() and _requires_grad(output)
            return source
        if training and output is not None:
            graph = any(tensor.grad_fn is not None for _, tensor in leaves(output))
            frozen = _OF_FROZEN if self.latest is not None and self.latest.use_unknown else _FOREIGN
            raise RuntimeError(frozen if graph else _DETACHED)
        # An evaluation output does not come from the training pass before it.
        evaluated = not train_mode or (output is not None and not torch.is_grad_enabled())
        if self.latest is None or (self.latest.training and evaluated):
            return Source([])
        return Source([(self.latest.outputs, None)], batch_dim=self.output_dim)

    def require_order(self, output: Any) -> None:
        """Raise ValueError if the rows of an output are not in the order of its pass any more."""
        if not isinstance(output, Tensor):
            return
        from manifold_mixup._attach.after_pass import reordering  # few outputs need it

        self._ordered += 1
        wait = self._ordered <= _LOOKS
        if by := reordering(output, self.output_dim, self._made_by_a_pass, wait=wait):
            raise ValueError(_REORDERED.format(by))

    def require_batch(self, output: Tensor, target: Any, batch: int) -> None:
        """Raise ValueError if an output was transposed, and a target may have been or not."""
        from manifold_mixup._attach.after_pass import batch_moved_to  # few outputs need it

        dim, moved = self.output_dim, None
        for _, leaf in leaves(target):
            places = [place for place, size in enumerate(leaf.shape) if size == batch]
            if dim in places and len(places) > 1:
                if moved is None:
                    moved = batch_moved_to(output, dim, self._made_by_a_pass)
                if moved != dim:
                    raise ValueError(_TRANSPOSED.format(moved, tuple(leaf.shape), places))

    def warn_of_data(self, output: Any, outputs: Outputs) -> None:
        """Warn if the output of a mixed pass met data of the examples after the model."""
        watch = outputs.watch
        if self._met_data or outputs.plan is None or watch is None:
            return
        from manifold_mixup._attach.met_data import After, met_by  # few outputs need it

        after = After(outputs.plan.batch, self.output_dim, self._made_by_a_pass, watch.values)
        if by := met_by((tensor for _, tensor in leaves(output)), after):
            self._met_data = True
            warn(_MET.format(by))

    def warn_of_other_loss(self, outputs: Outputs) -> None:
        """Warn if backward reaches a mixed pass also from a loss that no criterion computed."""
        watch = outputs.watch
        if self._other_loss or outputs.plan is None or watch is None:
            return
        if outputs.provisional_claims or not watch.losses:  # losses by hand
            return
        from manifold_mixup._attach.other_losses import Around, other_loss, running_losses

        known = outputs.begin, watch.mixed, watch.losses, outputs.unclaimed()
        around = Around(outputs.plan.batch, self.output_dim, self._made_by_a_pass, *known)
        if by := other_loss(running_losses(), around):
            self._other_loss = True
            warn(_OTHER_LOSS.format(outputs.plan.layer, by))

    def _made_by_a_pass(self, number: int) -> bool:
        return self._pass_of_node(number) is not None

    def refuse_computed_targets(self, target: Any) -> None:
        """Raise ValueError if a mixed pass computed a target, as with swapped arguments."""
        if isinstance(target, Tensor) and target.dtype == torch.int64:  # classes, nearly always
            return
        for path, tensor in leaves(target):
            plan = self._plan_that_computed(tensor)
            if plan is not None:
                raise ValueError(_SWAPPED.format(path and f" {path!r}", plan.layer))

    def _plan_that_computed(self, tensor: Tensor) -> MixPlan | None:
        """Return the plan of the mixed pass that computed a tensor, even if it is detached."""
        if tensor.grad_fn is not None:
            found = self._by_graph(tensor)
        elif not is_continuous(tensor):  # integers, such as classes, never have a graph
            return None
        else:  # an input that the model returns unchanged has no node, so it does not count
            found = [(outputs, nodes) for outputs, nodes in self._memories.of(tensor) if nodes]
        return next((outputs.plan for outputs, _ in found if outputs.plan is not None), None)

    def returned(self, tensor: Tensor) -> bool:
        """Return whether a pass returned a tensor, or it was computed from what a pass returned."""
        return bool(self._by_graph(tensor) or self._memories.of(tensor))

    def _by_graph(self, output: Any) -> list[tuple[Outputs, set[int]]]:
        """List the nearest passes in the autograd graph of ``output``."""
        latest = self.latest
        if isinstance(output, Tensor) and output.grad_fn is not None and latest is not None:
            number = output.grad_fn._sequence_nr()
            if latest.begin <= number < latest.end:  # nearly always, as a loss follows its pass
                self.direct = True
                return [(latest.outputs, {number})]
        self.direct = False
        found: dict[ForwardPass, set[int]] = {}

        def note(number: int) -> bool:
            owner = self._pass_of_node(number)
            if owner is not None:
                found.setdefault(owner, set()).add(number)
            return owner is not None

        floor = min((known.begin for known in self._alive()), default=0)
        _autograd.search((tensor for _, tensor in leaves(output)), floor, note)
        return [(owner.outputs, nodes) for owner, nodes in found.items()]

    def _pass_of_node(self, number: int) -> ForwardPass | None:
        if self.latest is not None and self.latest.made_node(number):  # nearly always
            return self.latest
        return next((known for known in self._alive() if known.made_node(number)), None)


def _requires_grad(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.requires_grad
    return any(tensor.requires_grad for _, tensor in leaves(output))


_NO_PASS = (
    "the criterion was called in training, but no forward pass of the attached model was seen. "
    "Call the model itself, not its forward method. If you compiled the model and then attached to "
    "the module inside, attach to what you call instead: ManifoldMixup(compiled_model, ...)."
)
_NEVER_CALLED = (
    "layer {!r} runs in training, but the attached {} itself is never called, so nothing is mixed. "
    "Perhaps a method of it calls its parts, such as forward_loss or training_step: attach to the "
    "part that it calls, ManifoldMixup(model.part, ...), or call the model, model(x)."
)
_FOREIGN = (
    "the autograd graph of this output leads to no forward pass of the attached model. Pass the "
    "criterion what the model returned, or something computed from it. Checkpoint a whole model "
    "with use_reentrant=False, which keeps its graph. For an output of another model, use the "
    "plain criterion."
)
_FROZEN = (
    "forward passes mixed hidden states, the last one at {!r}, and their targets were not mixed. "
    "The model is frozen: nothing that it returns has a gradient, so backward cannot show whether "
    "a loss uses it. Call mixup.target(y, features).loss(criterion, head(features)), where "
    "features is what the model returned; or attach to a model that contains the trained head, and "
    "wrap the criterion. If you mix the targets by hand, call mixup.target(None, features). If "
    "nothing is trained on it, run it in mixup.paused() or torch.no_grad()."
)
_OF_FROZEN = (
    "the autograd graph of this output leads to no forward pass of the attached model, which is "
    "frozen: nothing that its last pass returned has a gradient. Call mixup.target(y, features)"
    ".loss(criterion, head(features)), where features is what the model returned; or attach to a "
    "model that contains the trained head."
)
_DETACHED = (
    "this output has no autograd graph and is not what the attached model returned, so its forward "
    "pass cannot be identified. Pass the criterion the model's output before it is detached. If a "
    "loss is only logged, or its output comes from another model, compute it inside "
    "torch.no_grad() or with the plain criterion. If the criterion takes an object that hides its "
    "tensors, such as a distribution, call mixup.target(y, output).loss(criterion, value)."
)
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
_SWAPPED = (
    "the target{} was computed by a forward pass that mixed the hidden state at {!r}. A criterion "
    "is called as criterion(output, target): are the two swapped? If the model's own output is "
    "meant to be a target, as in self-distillation, it is already mixed: compute that loss with "
    "the plain criterion and call mixup.target(None, output), or compute the target in a separate "
    "pass in mixup.paused()."
)
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
_SEVERAL = (
    "this output was computed from several forward passes, which mixed differently. Pass the "
    "criterion the output of one pass at a time, and add the losses. To mix several passes alike, "
    "repeat the plan of the first: with mixup.using(mixup.plan)."
)
