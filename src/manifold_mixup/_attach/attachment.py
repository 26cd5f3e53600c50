"""Attachment: the hooks on one model, which begin, mix and end its forward passes."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd, _mix
from manifold_mixup._attach import compiled, mask_pair
from manifold_mixup._attach.carrying import ArgumentHook, CarryHooks, OutputHook
from manifold_mixup._attach.eval_mode import EvalModeWatch
from manifold_mixup._attach.forward_pass import ForwardPass
from manifold_mixup._attach.grids import Grids
from manifold_mixup._attach.hooks import (
    PLANS,
    ActivePlan,
    BlockHook,
    EagerHook,
    LayerHook,
    MaskHook,
)
from manifold_mixup._attach.last_token import LastTokenHook, LastTokenHooks
from manifold_mixup._attach.layer_runs import LayerRuns
from manifold_mixup._attach.padding import Padding
from manifold_mixup._attach.passes import Passes
from manifold_mixup._attach.source import Source
from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._batch_first import inputs_batch_first, names_to_move
from manifold_mixup._blend import Blend, Interpolate, SimilarityKernel
from manifold_mixup._graphs import graphs_in
from manifold_mixup._inputs import leading, map_inputs, mixed_input, named_inputs
from manifold_mixup._layers import ALL_RUNS, is_input, module_name, named_layers, split_run, unwrap
from manifold_mixup._module_hooks import hook_after, hook_before, into_place, to_front
from manifold_mixup._plan import MixPlan
from manifold_mixup._structure.row import InputRow, LayerRow
from manifold_mixup._transport import Aligned
from manifold_mixup._weigh import cut
from manifold_mixup._weigh.completion import completed, completion_for, needs_completion
from manifold_mixup._weigh.state import mix_state

if TYPE_CHECKING:
    from manifold_mixup._attach.shared_runs import RunCounter

Inputs = list[tuple[str, Tensor]]
Rows = Mapping[str, LayerRow | InputRow]
_PLAIN = Interpolate()


class Attachment:
    """Hooks on a model for some of its layers, and the forward passes that they have seen.

    In a forward pass, `_begin` takes the plan from ``next_plan`` (`ManifoldMixup._next_plan`, which
    draws it) and makes it the active one. The hook on the plan's layer mixes there (`_begin`
    itself mixes the input). `_end` checks that this happened once and returns the output, whose
    backward requires a claim. `source_of` traces an output back to its pass, which can then be
    claimed.

    Args:
        model: the module that the user calls.
        layers: the names of the eligible layers.
        owner: the object that the hooks belong to, see `owners_on`.
        mask: name of the padding mask among the model's inputs; None for none.
        outputs: paths of the outputs that the loss reads; None for all.
        batch_dim: the dimension of the inputs that holds the batch.
        mixes: returns whether the next pass is mixed, given whether it trains.
        next_plan: returns the plan of a pass to mix, given its inputs by name, its arguments, and
            whether it trains.
        look_again: inspects the model once more, given the arguments of a pass that ran something
            else than those before.
        blend: the ways of mixing, some of which need to know the positions of a state.

    Attributes:
        plan: the plan of the running or latest pass that trains or mixes; None if it is not mixed.
        skipped: the number of plans whose layer did not run.
        lead: name of the input whose dimension 0 is the batch; None until it is known.
        graphs: whether the examples are graphs, and ``lead`` holds the graph of each node.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        *,
        owner: object,
        mask: str | None,
        outputs: Sequence[str] | None,
        batch_dim: int,
        mixes: Callable[[bool], bool],
        next_plan: Callable[[Inputs, tuple[Any, ...], dict[str, Any], bool], MixPlan | None],
        look_again: Callable[[tuple[Any, ...], dict[str, Any]], None] = lambda args, kwargs: None,
        blend: Blend = _PLAIN,
    ) -> None:
        self.model = model
        self.blend = blend
        self.grids = Grids(blend)
        self._planned: ForwardPass | None = None
        self.skipped = 0
        self.lead: str | None = None
        self.batch_dim = batch_dim
        self.graphs = False
        self.input_shapes: dict[str, tuple[int, ...]] = {}  # without the batch, when inspected
        self.passes = Passes(model, outputs, output_dim=batch_dim)
        self.passes.mixes = mixes
        self._owner, self._mixes, self._next_plan = owner, mixes, next_plan
        self._look_again = look_again
        self._active = ActivePlan()
        self._counters: dict[str, RunCounter] = {}  # by module, for those that run several times
        self._inputs = tuple(filter(is_input, layers))
        self._hooks = {name: self._layer_hook(name) for name in layers if name not in self._inputs}
        self.layer_runs = LayerRuns(model, self._hooks)
        self.padding = Padding(
            owner, mask, active=self._active, passes=self.passes, layers=self._hooks
        )
        known: Any = {"active": self._active, "passes": self.passes, "layers": self._hooks}
        self.carry_hooks, self.last_token_hooks = (
            CarryHooks(owner, **known),
            LastTokenHooks(owner, **known),
        )
        self._rows: dict[str, LayerRow | InputRow] = {}
        self._eval_mode = EvalModeWatch(model)
        self._handles: list[Any] = []
        self._marks: list[compiled.Mark] = []  # those among the handles that may need a renewal
        self._blocks: set[nn.Module] = set()
        self._warned_of_forward = False
        self._after_dry_run = True  # no pass has ended since a dry run
        self._error_before: BaseException | None = None
        self._recomputation: tuple[int, int | None] | None = None

    def _layer_hook(self, name: str) -> LayerHook:
        module, run = split_run(name)
        counter = None
        if run not in ("", ALL_RUNS):
            from manifold_mixup._attach.shared_runs import RunCounter  # few models need it

            made = RunCounter(self._owner, module, self.passes)
            counter = self._counters.setdefault(module, made)
        hook = LayerHook(self._owner, name, self._active, self.passes, counter)
        hook.default_batch_dim = BatchDim(self.batch_dim)
        hook.places = self.grids.places(name)
        return hook

    @property
    def plan(self) -> MixPlan | None:
        """The plan of the running or latest pass that was to be mixed; None if it is not."""
        return None if self._planned is None else self._planned.plan

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    def register(self) -> None:
        """Put the hooks on the model."""
        compiled.skip_compiling(
            LayerHook.__call__,
            MaskHook.__call__,
            ArgumentHook.__call__,
            OutputHook.__call__,
            LastTokenHook.__call__,
            BlockHook.__call__,
            *{type(counter).__call__ for counter in self._counters.values()},
            *_mix.IN_BACKWARD,
            *cut.IN_BACKWARD,
        )
        modules = named_layers(self.model)
        PLANS.let_in(self, self._hooks.values(), modules)
        marked = dict.fromkeys(map(module_name, self._hooks))
        handles: list[Any] = [compiled.Mark(modules[name]) for name in marked]
        for name, counter in self._counters.items():
            handles.append(hook_before(modules[name], counter))
        for name, hook in self._hooks.items():
            in_front = getattr(self._rows.get(name), "in_front", False)
            handles.append(hook_after(modules[module_name(name)], hook, prepend=in_front))
        begin, end = EagerHook(self._owner, self._begin), EagerHook(self._owner, self._end)
        handles.append(self.model.register_forward_pre_hook(begin, with_kwargs=True))
        # Also run after an exception, so that the pass does not stay open for later layer calls.
        handles.append(self.model.register_forward_hook(end, always_call=True))
        self._handles += handles
        self.register_readers()
        self._watch_blocks()

    def register_readers(self) -> None:
        """Put hooks on modules newly found to receive the mask or what layers carry."""
        self._handles += self.padding.register(self.model)
        self._handles += self.carry_hooks.register(self.model)
        self._handles += self.last_token_hooks.register(self.model)
        marks = (one for one in self._handles if isinstance(one, compiled.Mark))
        self._marks = [one for one in marks if one.forward is not None]

    def remove(self) -> None:
        """Remove all hooks from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._marks = [], []
        self._active.set(None)
        self._planned = None

    def batch_first(self, inputs: Inputs) -> Inputs:
        """Return the inputs with the batch at dimension 0."""
        return inputs_batch_first(inputs, self.batch_dim, self.padding.name)

    def leading(self, inputs: Inputs) -> Tensor:
        """Return that of the `batch_first` inputs that shows the batch, or numbers its graphs."""
        if self.graphs and self.lead not in dict(inputs):
            raise ValueError(
                f"this call has no {self.lead!r}, which held the graph of each node when the model "
                f"was inspected. Pass it, or call the model in mixup.paused()."
            )
        return leading(inputs, self.lead)

    def require_inputs(self, inputs: Inputs, rows: int) -> None:
        """Raise unless each input among the layers can be mixed."""
        for name in self._inputs:
            mixed_input(name, inputs, self.padding.name, rows, self.input_shapes)

    def rows_in(self, lead: Tensor) -> int:
        """Return the number of examples that the `leading` input shows."""
        return graphs_in(lead) if self.graphs else lead.shape[0]

    def source_of(self, y: Any, output: Any) -> Source:
        """Return the source of an output, whose targets ``y`` are about to be mixed.

        Raises:
            RuntimeError: in training, the output comes from no forward pass, or from several.
            ValueError: a mixed pass computed the targets.
        """
        if not self._handles:
            return Source([])
        self.passes.refuse_computed_targets(y)
        source = self.passes.source_of(output, train_mode=self.model.training)
        if not self.model.training and source.plan is None:
            self._eval_mode.watch(output)
        if not self.passes.direct and y is not None and source.plan is not None:
            self.passes.require_order(output)
            self.passes.warn_of_data(output, source.parts[0][0])
        return source

    # For find_layers and the proof

    def record_rows(self, rows: Rows) -> None:
        """Store what is known about layers: the tensors to mix, and the readers of masks."""
        self._rows.update(rows)
        for name, row in rows.items():
            self.padding.record_row(name, row)
            self.grids.record_row(name, row)
            masked = bool(row.readers) and row.mask == self.padding.name
            self.carry_hooks.record_row(name, row, padded=masked, places=self.grids.carried(name))
            self.last_token_hooks.record_row(name, row)
            if row.plain_outputs:
                self.passes.plain_outputs[name] = frozenset(row.plain_outputs)
            readers = [reader.layer for reader in (row.readers if masked else ())]
            if readers or row.carries or row.ends:
                readers += [carry.layer for carry in row.carries]
                readers += [end.layer for end in row.ends]
                self.layer_runs.placement.add_readers(name, readers)
            if isinstance(row, LayerRow):
                hook = self._hooks[name]
                hook.unmixed = row.unmixed
                hook.batch_dims, hook.default_batch_dim = dict(row.batch_dims), BatchDim()
                hook.places = self.grids.places(name)
                hook.may_count, hook.inspected_runs = not row.checkpointed, row.runs
                if row.in_front:
                    to_front(named_layers(self.model)[module_name(name)], hook)
                self.layer_runs.note_ran([name])

    def row(self, layer: str) -> LayerRow | InputRow | None:
        """Return what is known about a layer or input."""
        return self._rows.get(layer)

    @contextmanager
    def visible(self) -> Iterator[None]:
        """Make dry runs see states at the position of our hooks among the hooks of others."""
        self._after_dry_run = True
        for hook in self._hooks.values():
            hook.in_dry_run = True
        try:
            yield
        finally:
            for hook in self._hooks.values():
                hook.in_dry_run = False

    @contextmanager
    def run_on_stage(
        self, staged: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], plan: MixPlan | None
    ) -> Iterator[Any]:
        """Run the staged model mixed by a plan, with an attachment like this one."""
        if plan is None:
            yield staged(*args, **kwargs)
            return
        attachment = Attachment(
            staged,
            [plan.layer],
            owner=self,
            mask=self.padding.name,
            outputs=None,
            batch_dim=self.batch_dim,
            mixes=lambda training: True,
            next_plan=lambda inputs, *_: self.grids.as_weights(plan).to(
                leading(inputs, self.lead).device
            ),
            blend=self.blend,
        )
        attachment.lead = self.lead
        attachment.record_rows(
            {name: row for name, row in self._rows.items() if name == plan.layer}
        )
        attachment.register()
        try:
            for name in attachment._hooks:
                into_place(named_layers(staged)[module_name(name)])
            output = staged(*args, **kwargs)
            attachment.source_of(None, output).claim()  # the proof runs backward without targets
            yield output
        finally:
            attachment.remove()

    # A forward pass

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "_is_replica" in vars(module):  # set on replicas alone
            raise TypeError(DATA_PARALLEL)
        for mark in self._marks:  # the class of a module, or its forward, may have been replaced
            if mark.forward.__func__ is not type(mark.module).forward:
                mark.renew()
        training = self.model.training and torch.is_grad_enabled()
        mixing = self._mixes(training)
        if mixing and (_autograd.is_tracing() or torch.compiler.is_exporting()):
            raise RuntimeError(_EXPORTED)
        recomputed = self.passes.recomputed(strict=mixing)
        if recomputed is None:
            if self.passes.running is not None:
                self.passes.refuse_other_thread(mixing)
            inputs = named_inputs(unwrap(self.model), args, kwargs) if mixing else []
            running = self._start(inputs, args, kwargs, training=training, mixing=mixing)
        else:
            self._require_once(recomputed)
            inputs, running = named_inputs(unwrap(self.model), args, kwargs), recomputed
        self._active.start()
        self._active.set(running, drawn=running.completed_in is module)
        if running.plan is not None and running.plan.layer in self._inputs:
            return self._mix_input(running, inputs, args, kwargs)
        return None

    def _start(
        self,
        inputs: Inputs,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        training: bool,
        mixing: bool,
    ) -> ForwardPass:
        """Open a pass, with its plan if it is to be mixed."""
        plan, valid = None, None
        if mixing:
            if not self._warned_of_forward:
                self._warned_of_forward = True
                compiled.warn_of_forward(self.model)
            if self.batch_dim:
                inputs = self.batch_first(inputs)
            plan = self._next_plan(inputs, args, kwargs, training)
            if plan is not None and plan.weight is not None:
                plan = self._completed_ahead(plan, inputs)
            if plan is not None and self.padding.name is not None:
                valid = self.padding.valid(inputs)
            compiled.follow_sizes(inputs, plan)
        started = self.passes.start(plan, training=training, valid=valid)
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)  # nearly always
        started.arguments = args, kwargs
        started.copies = None if alone or plan is None else _copies_of(args, kwargs)
        if training or mixing:
            self._planned = started
        if training:
            self._eval_mode.reset()
        self._error_before = sys.exc_info()[1]
        return started

    def _completed_ahead(self, plan: MixPlan, inputs: Inputs) -> MixPlan:
        """Complete a plan for a layer inside a compiled checkpoint, which cannot tell its state."""
        hook = self._hooks.get(plan.layer)
        if hook is None or hook.may_count or not needs_completion(plan):
            return plan
        if not compiled.runs_compiled(self.model, module_name(plan.layer)):
            return plan
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in inputs}
        if isinstance(plan.weight, SimilarityKernel | Aligned) or shapes != self.input_shapes:
            raise RuntimeError(_UNTOLD.format(plan.layer, plan.weight))
        path, place = next(iter(hook.places.items()), ("", None))
        at = hook.batch_dims.get(path, hook.default_batch_dim)
        shape = list(dict(getattr(self._rows[plan.layer], "shapes", ())).get(path, ()))
        shape[at.dim : at.dim + 1] = [plan.batch]
        state = torch.empty((), device=plan.perm.device).expand(shape)
        completion = completion_for(plan, state, at if at.dim else None, place)
        return completed(plan, completion)

    def _require_once(self, recomputed: ForwardPass) -> None:
        """Raise if the same backward node has already recomputed a pass."""
        recomputation = _autograd.recomputation()
        if recomputation == self._recomputation:
            raise RuntimeError(
                "a checkpoint contains several calls of the model, so the call that is being "
                "recomputed cannot be identified. Checkpoint each call separately."
            )
        self._recomputation = recomputation

    def _mix_input(
        self,
        running: ForwardPass,
        inputs: Inputs,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        assert running.plan is not None
        layer, name, moved = running.plan.layer, self.padding.name, frozenset[str]()
        if self.batch_dim:
            moved = names_to_move(inputs, self.batch_dim, name)
        front = self.batch_first(inputs) if moved else inputs
        rows = running.plan.perm.shape[0]
        wanted = mixed_input(layer, front, name, rows, self.input_shapes)
        at = BatchDim(self.batch_dim) if wanted in moved else None
        valid = running.valid if layer in self.padding.inputs else None
        place = None if running.plan.weight is None else self.grids.place(layer, "")

        def mix_wanted(name: str, tensor: Tensor) -> Tensor:
            if name != wanted:
                return tensor
            plan = running.plan
            assert plan is not None
            if plan.weight is not None:
                plan = running.completed_plan(lambda plan: completion_for(plan, tensor, at, place))
                self._active.set(running)  # compiled code reads it
            mixed = mix_state(tensor, at, plan, valid, place)
            compiled.mark_alike(mixed, tensor)
            return mixed

        if len(inputs) == 1 and args and isinstance(args[0], Tensor):  # nothing else to rebuild
            return (mix_wanted(wanted, args[0]), *args[1:]), kwargs
        mixed = map_inputs(mix_wanted, unwrap(self.model), args, kwargs)
        if running.copies is not None:
            running.copies.note((args, kwargs), mixed)
        return mixed

    def _end(self, module: nn.Module, args: Any, output: Any) -> Any:
        running = self.passes.running
        elsewhere = running is not None and running.thread is not _autograd.here.thread
        if elsewhere and _autograd.running_node() is None:
            return output  # refused at its beginning
        try:
            if self.passes.recomputed(strict=False) is None:
                output = self._finish(output)
        finally:
            self._restore_active(module)
        return output

    def _finish(self, output: Any) -> Any:
        """Close the running pass, and return its output for the user."""
        running = self.passes.running
        # The caller may be handling an exception that is older than this pass.
        failed = sys.exc_info()[1] is not self._error_before
        try:
            if running is not None and not failed:
                self._account(running, output)
            elif not failed:
                self.passes.refuse_nesting()  # a call of the model inside this one closed it
        finally:
            output = self.passes.finish(output)
            self._error_before = None
        if running is not None:
            arguments, running.arguments = running.arguments, None
            if self.passes.sizes.changed and not failed and arguments is not None:
                self._look_again(*arguments)  # before what the model keeps says something else
        return output

    def _account(self, finished: ForwardPass, output: Any) -> None:
        """Check that the plan's layer ran once; drop the plan if the layer was skipped."""
        if self._active.is_completed:
            self._complete_compiled(finished, self.model)
        plan = finished.plan
        hook = None if plan is None else self._hooks.get(plan.layer)
        if self.layer_runs.skipped(finished, self._active.compiled_mixes):
            finished.unmix()
            self.skipped += 1
        elif hook is not None and hook.traced and not hook.block_has_hooks:
            hook.block_has_hooks = True  # compiled code ran this layer for the first time
            self._watch_blocks()  # its block may have been compiled after attaching
        elif self._active.newly_compiled:
            self._active.newly_compiled = False
            self._watch_blocks()
        plain = isinstance(output, Tensor) and not (
            self.last_token_hooks.hooks or self.padding.hooks
        )
        if not plain or self._after_dry_run:
            self._require_output(finished, output)

    def _require_output(self, finished: ForwardPass, output: Any) -> None:
        """Check what a pass returned."""
        if not isinstance(output, Tensor):
            finished.require_tensor(output)
        self.last_token_hooks.refuse_whole_sequences(output)
        if self.padding.hooks:
            mask_pair.require_none(output)
        if self._after_dry_run:
            from manifold_mixup._dry_run.left_behind import require_real  # once

            self._after_dry_run = False
            require_real(output)

    # Compiled blocks inside an eager model

    def _watch_blocks(self) -> None:
        """Put hooks on every compiled block that activate the plan of a recomputed pass."""
        for block in compiled.blocks(self.model):
            if block not in self._blocks:
                self._blocks.add(block)
                enter = BlockHook(self._owner, self._enter_block)
                leave = BlockHook(self._owner, self._restore_active)
                self._handles.append(block.register_forward_pre_hook(enter))
                self._handles.append(block.register_forward_hook(leave, always_call=True))

    def _enter_block(self, block: nn.Module, *_: Any) -> None:
        recomputed = self.passes.recomputed()
        if recomputed is not None:
            self._active.set(recomputed, drawn=recomputed.completed_in is block)

    def _restore_active(self, module: nn.Module, *_: Any) -> None:
        if self.passes.running is not None and self.passes.recomputed(strict=False) is None:
            self._complete_compiled(self.passes.running, module)
        self._active.set(self.passes.running)

    def _complete_compiled(self, running: ForwardPass, module: nn.Module) -> None:
        """Complete the plan of a pass by what compiled code in a module found it to mean."""
        found = self._active.completed()
        if found is not None and running.plan is running.drawn:
            running.complete(found)
            running.completed_in = module


def _copies_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from manifold_mixup._attach.copies import copies_of  # one tensor needs none of it

    return copies_of(args, kwargs)


def owners_on(model: nn.Module) -> list[object]:
    """List the owners of the hooks that are on a model."""
    hooks = (
        hook
        for module in model.modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    )
    return list(dict.fromkeys(h.owner for h in hooks if isinstance(h, EagerHook | LayerHook)))


DATA_PARALLEL = (
    "nn.DataParallel runs replicas of the model in threads, each on a part of the batch, so no "
    "plan can apply to the whole batch. Use DistributedDataParallel, and attach in each process."
)
_UNTOLD = (
    "layer {!r} lies in a compiled activation checkpoint, which cannot report the state by which "
    "{} says how it is mixed, and the inputs have other shapes than when the model was inspected. "
    "Attach with example=(a batch of this size), compile without checkpoints, or use Interpolate()."
)
_EXPORTED = (
    "the model is being exported or traced while it mixes: the result would mix every batch by the "
    "same plan. Call mixup.remove() first, or export in eval mode."
)
