"""Forward passes: find the running one, the source of an output, the one being recomputed."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd, _own_calls
from manifold_mixup._attach.claims import MemoryIndex, Outputs
from manifold_mixup._attach.forward_pass import ForwardPass
from manifold_mixup._attach.pass_sizes import PassSizes
from manifold_mixup._attach.scrutiny import Scrutiny
from manifold_mixup._attach.source import Source
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan, mixes_alike
from manifold_mixup._tree import leaves
from manifold_mixup._warn import warn

_FEW = 16
"""Passes that are referred to before it is asked which are still in use."""
_IN_VAIN = 2
"""Passes in a row that nothing seems to learn from, before it is warned of."""
_OUTSIDE = 3
"""Steps in which layers run in training, before any call of the model, that are warned of."""


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
        self._thread: object = None  # of the latest pass
        self._threads = False  # whether there were others
        self._memories = MemoryIndex()
        self.direct = False  # whether the output looked up last is what the latest pass returned
        self._unused = 0  # passes in a row without a gradient and without mixed targets
        self._scrutiny = Scrutiny(model)
        self.sizes = PassSizes()
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
        self._threads = self._threads or self._thread not in (None, started.thread)
        self._thread = started.thread
        if len(self._references) >= self._limit:
            self._references = [one for one in self._references if one() is not None]
            self._limit = max(_FEW, 2 * len(self._references))
        self._references.append(weakref.ref(started))
        return started

    def _alive(self) -> list[ForwardPass]:
        """List the passes whose outputs may still be used."""
        passes = (reference() for reference in self._references)
        return [one for one in passes if one is not None]

    def refuse_other_thread(self, mixing: bool) -> None:
        """Raise RuntimeError if another thread runs a pass, and one of the two is mixed."""
        running = self._running_pass()
        if running is None or running.thread is _autograd.here.thread:
            return
        if mixing or running.plan is not None:
            raise RuntimeError(_THREADS.format("runs in two threads at once"))

    def _refuse_threads(self) -> None:
        # Every thread counts its nodes by itself, so passes of two threads have the same numbers.
        here = _autograd.here.thread
        if any(one.thread is not here and one.plan is not None for one in self._alive()):
            raise RuntimeError(_THREADS.format("has outputs of another thread that are in use"))

    def finish(self, output: Any) -> Any:
        """Close the running pass and return its output, whose graph keeps the pass alive."""
        finished, self.running = self.running, None
        if finished is None:
            return output
        finished.carried.clear()
        finished.checkpoints.clear()  # frames, which hold all that is in them
        made = output
        output = finished.outputs.hand_out(made, finished, finished.begin)
        if finished.copies is not None:
            finished.copies.finish(made, output)
            finished.copies = None
        if self.plain_outputs and finished.plan is not None:
            paths = self.plain_outputs.get(finished.plan.layer, ())
            finished.outputs.keep_plain(output, paths)
        finished.end = _autograd.next_number()
        if finished.plan is not None and finished.training:
            self._scrutiny.look_at(finished, output, self.warn_of_other_loss)
            self.sizes.note(finished)
        self.latest = finished
        if not finished.outputs.leaves and finished.training and finished.plan is not None:
            in_transform = _autograd.in_transform() or _autograd.in_forward_mode()
            finished.use_unknown = output is not None and not in_transform  # None if it failed
        else:
            self._unused = 0
        self._memories.note(output, finished.outputs)
        return output

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
        if training and (self._threads or self._thread is not _autograd.here.thread):
            self._refuse_threads()
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

    # What happens to the outputs after their pass; see `Scrutiny`

    def require_order(self, output: Any) -> None:
        """Raise ValueError if the rows of an output are not in the order of its pass any more."""
        self._scrutiny.require_order(output, self)

    def require_batch(self, output: Tensor, target: Any, batch: int) -> None:
        """Raise ValueError if an output was transposed, and a target may have been or not."""
        self._scrutiny.require_batch(output, target, batch, self)

    def warn_of_data(self, output: Any, outputs: Outputs) -> None:
        """Warn if the output of a mixed pass met data of the examples after the model."""
        self._scrutiny.warn_of_data(output, outputs, self)

    def warn_of_other_loss(self, outputs: Outputs) -> None:
        """Warn if backward reaches a mixed pass also from a loss that no criterion computed."""
        self._scrutiny.warn_of_other_loss(outputs, self)

    def made(self, number: int) -> bool:
        """Return whether a pass made the node with this sequence number."""
        return self._pass_of_node(number) is not None

    # The graph

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
_THREADS = (
    "the attached model {}, so it is unclear which pass an output comes from. Train it in one "
    "thread, from the forward pass to backward, and release its losses (loss.item() keeps the "
    "number) before another thread goes on. Give every other thread a copy of the model "
    "(copy.deepcopy), which is not attached: attach to the copies that train."
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
_SWAPPED = (
    "the target{} was computed by a forward pass that mixed the hidden state at {!r}. A criterion "
    "is called as criterion(output, target): are the two swapped? If the model's own output is "
    "meant to be a target, as in self-distillation, it is already mixed: compute that loss with "
    "the plain criterion and call mixup.target(None, output), or compute the target in a separate "
    "pass in mixup.paused()."
)
_SEVERAL = (
    "this output was computed from several forward passes, which mixed differently. Pass the "
    "criterion the output of one pass at a time, and add the losses. To mix several passes alike, "
    "repeat the plan of the first: with mixup.using(mixup.plan)."
)
