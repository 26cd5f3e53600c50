"""ManifoldMixup: attaches to a model, draws its plans, hands targets the plan of their output."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd, _compiled, _masks, _mix
from manifold_mixup._arguments import Keys
from manifold_mixup._aside import NotTraceable, Sharded
from manifold_mixup._criterion import MixedCriterion
from manifold_mixup._find import LayerTable, check_layers, look_for, rows_of
from manifold_mixup._hooks import BlockHook, EagerHook, LayerHook, MaskHook, Switch
from manifold_mixup._idle import Idle
from manifold_mixup._inputs import leading, map_inputs, mixed_input, named_inputs
from manifold_mixup._layers import is_input, named_layers, resolve, unwrap
from manifold_mixup._left import require_real
from manifold_mixup._losses import Criterion
from manifold_mixup._outputs import as_paths
from manifold_mixup._padding import Padding, require_argument
from manifold_mixup._passes import Pass, Passes, Source
from manifold_mixup._places import hook_after, into_place, to_front
from manifold_mixup._plan import MixPlan
from manifold_mixup._prove import LayerProof, Report, prove, require_proven
from manifold_mixup._rows import InputRow, LayerRow
from manifold_mixup._rule import Said, Targets
from manifold_mixup._runs import Runs
from manifold_mixup._sample import Alpha, Stream
from manifold_mixup._stage import SCRIPTED
from manifold_mixup._targets import MixedTarget
from manifold_mixup._warn import warn


class ManifoldMixup:
    """Attach Manifold Mixup (Verma et al., 2019) to a model.

    From then on every forward pass in train mode with gradients enabled draws a layer, a λ and a
    permutation, and mixes the hidden state there. Compute the loss with a criterion from `wrap`,
    which mixes the targets alike. Nothing else of the model changes, and `remove` takes it back.

    Args:
        model: any module. Compile it first, and attach to the compiled model.
        layers: the eligible layers S: names, patterns such as ``"encoder.layer.*"``, or modules;
            ``"input"`` is the model's input, ``"input:NAME"`` one of several. None has them chosen,
            by ``example``.
        example: one batch: a tensor, a tuple of positional or a dict of keyword arguments.
        alpha: λ ~ Beta(alpha, alpha); above 0, or a callable of the step (the number of training
            forward passes so far) that may return None for a batch that is not to be mixed.
        p: share of the batches that are mixed, 0 to 1. The paper mixes all.
        per_sample: draw a λ for every example instead of one for the batch.
        mask: name of the padding mask among the arguments of the model, such as
            ``"attention_mask"``. It is mixed too, in every module that is given it after the mixed
            layer: a position weighs as much as the examples that have one there.
        outputs: path or paths of what the loss reads of the model's output, such as ``"logits"`` or
            ``"0"``, if the model returns more (hidden states, attentions); None means all of it.
        check: look once, on the first training batch, whether anything bypasses a chosen layer, and
            with a ``mask`` prove by numbers, on four examples, that none does.
        replace: take the place of an attachment that the model already has.
        seed: of the plans; None takes `torch.initial_seed`. Of one seed, every rank of a
            distributed run draws plans of its own.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or a layer is unknown or bypassed.
        RuntimeError: the model already has an attachment.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> mixup = ManifoldMixup(model, layers=["input", "1"], alpha=2.0, seed=0)
        >>> criterion = mixup.wrap(nn.CrossEntropyLoss())
        >>> loss = criterion(model(torch.randn(16, 4)), torch.randint(3, (16,)))
        >>> loss.backward()
        >>> mixup.plan
        MixPlan(layer='input', lam=0.8153, batch=16)
    """

    layers: tuple[str, ...]
    """The names of the eligible layers, in order of execution where known."""
    plan: MixPlan | None
    """The plan of the running or latest training forward pass; None if it is not mixed."""
    skipped: int
    """How many plans fell on a layer that did not run."""

    def __init__(
        self,
        model: nn.Module,
        layers: str | nn.Module | Iterable[str | nn.Module] | None = None,
        *,
        example: Any = None,
        alpha: Alpha = 2.0,
        p: float = 1.0,
        per_sample: bool = False,
        mask: str | None = None,
        outputs: str | Iterable[str] | None = None,
        check: bool = True,
        replace: bool = False,
        seed: int | None = None,
    ) -> None:
        _refuse(model, layers, example, mask)
        self._outputs = as_paths(outputs)
        seed = torch.initial_seed() if seed is None else seed
        self._stream = Stream(alpha, p=p, per_sample=per_sample, seed=seed)
        previous = _attached_to(model)
        if previous and not replace:
            raise RuntimeError(
                f"this model has {previous[0]!r} attached already. Say replace=True to take its "
                f"place, or call its remove() first."
            )
        self.layers = () if layers is None else resolve(model, layers)
        batch = None if example is None else _as_call(example)
        table = (
            None if batch is None else _find_for(model, self.layers, *batch, mask, self._outputs)
        )
        if layers is None and table is not None:
            self.layers = resolve(model, table.default)
        self.plan = None
        self.skipped = 0
        self._model = model
        self._passes = Passes(model, self._outputs)
        self._switch = Switch()
        self._hooks = {
            name: LayerHook(self, name, self._switch, self._passes)
            for name in self.layers
            if not is_input(name)
        }
        self._runs = Runs(model, self._hooks)
        self._padding = Padding(
            self, mask, switch=self._switch, passes=self._passes, layers=self._hooks
        )
        self._lead: str | None = None  # the input whose dimension 0 is the batch, once seen
        self._rows: dict[str, LayerRow | InputRow] = {}  # of the eligible layers
        self._checks = self._unchecked = check
        self._looked = False
        self._fresh = table is not None  # no pass has ended since the latest look
        self._first = True
        if table is not None and batch is not None:
            self._take(table, *batch)
        self._told: list[MixPlan | None] = []  # by using and paused, the innermost last
        self._replaced = False
        self._idle = Idle(model)
        self._error_before: BaseException | None = None
        self._recomputation: tuple[int, int | None] | None = None
        self._blocks: set[nn.Module] = set()
        for old in previous:
            old._give_way()
        _compiled.never_alone(
            LayerHook.__call__, MaskHook.__call__, BlockHook.__call__, *_mix.IN_BACKWARD
        )
        self._handles = self._register()
        _compiled.warn_of_limit(model, len(self.layers), sometimes=p < 1 or callable(alpha))

    def __repr__(self) -> str:
        state = ", removed" if not self._handles else ""
        skipped = f", skipped={self.skipped}" if self.skipped else ""
        return (
            f"ManifoldMixup(layers={list(self.layers)}, step={self._stream.step}{skipped}{state})"
        )

    # What a training loop calls

    def wrap(
        self,
        criterion: Criterion,
        *,
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
    ) -> MixedCriterion:
        """Return a criterion that mixes the targets as the output's forward pass was mixed.

        Args:
            criterion: any loss, called as ``criterion(output, target, *more)``, or by name. With
                a mixed target it is evaluated for both ends, as `MixedTarget` says.
            targets: ``"mix"`` to interpolate floating point targets, ``"ends"`` to interpolate the
                losses; None interpolates the targets of PyTorch's own losses where it is meant.
            with_target: names or positions of further arguments that come from the data and are
                mixed with the target, such as weights or lengths. The output is 0, the target 1.
            with_output: those that the model computed.
            whole: those that have no batch, even if they have as many rows.

        Returns:
            A module to call in its place. It is the plain criterion for outputs of passes that were
            not mixed: in eval mode, under ``no_grad``, in `paused`, after `remove`.

        Raises:
            TypeError: ``criterion`` is wrapped already.
            ValueError: an argument is declared that the criterion does not have.
        """
        if isinstance(criterion, MixedCriterion):
            raise TypeError(
                "this criterion is wrapped already; wrapped twice it would mix the targets twice. "
                "Wrap the plain one, criterion.criterion."
            )
        return MixedCriterion(criterion, self, targets, with_target, with_output, whole)

    def target(
        self,
        y: Any,
        output: Any = None,
        *,
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
    ) -> MixedTarget:
        """Return the targets mixed as the forward pass that made ``output`` was.

        Args:
            y: the targets of the batch; None for an output that has none, such as the mean and
                variance of a VAE, whose loss would be refused otherwise.
            output: what the model returned, or anything computed from it; None means the latest
                forward pass.
            targets: as of `wrap`, like the three after it.
            with_target: further arguments of the criterion that are mixed with the target.
            with_output: those that the model computed.
            whole: those that have no batch.

        Raises:
            RuntimeError: in training, ``output`` comes from no forward pass, or from several.
            ValueError: the targets have another batch size, or come from a mixed pass themselves.
        """
        said = Said(targets=targets, with_target=with_target, with_output=with_output, whole=whole)
        source = self._behind(y, output)
        mixed = MixedTarget(y, source.plan, **said)
        if torch.is_grad_enabled():  # else it is merely logged
            source.claim()
        return mixed

    def _behind(self, y: Any, output: Any) -> Source:
        """Return what made an output, for which targets are about to be claimed; see `target`."""
        if self._replaced:
            raise RuntimeError(_REPLACED)
        if not self._handles:
            return Source([])
        self._passes.require_data(y)
        source = self._passes.behind(output, train_mode=self._model.training)
        if source.plan is None and not self._model.training:
            self._idle.watch(output)
        return source

    def _require_own(self, output: Any, batch: int) -> None:
        self._passes.require_own(output, batch)

    @contextmanager
    def using(self, plan: MixPlan | None) -> Iterator[None]:
        """Mix every forward pass inside by ``plan``: in train and eval mode, with gradients or not.

        None, which is the `plan` of a batch that was not mixed, mixes nothing, as `paused` does.

        Raises:
            RuntimeError: this ManifoldMixup was removed or replaced.
            ValueError: the plan's layer is not among the eligible ones.
        """
        if not self._handles:
            raise RuntimeError(_REPLACED if self._replaced else _REMOVED)
        if plan is not None and plan.layer not in self.layers:
            raise ValueError(
                f"the plan mixes at {plan.layer!r}, but the eligible layers are "
                f"{list(self.layers)}."
            )
        with self._telling(plan):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Mix nothing inside, also in train mode; the stream of plans does not move on.

        Of this and `using`, the inner one counts.
        """
        with self._telling(None):
            yield

    @contextmanager
    def _telling(self, plan: MixPlan | None) -> Iterator[None]:
        self._told.append(plan)
        try:
            yield
        finally:
            self._told.pop()

    def state_dict(self) -> dict[str, int]:
        """Return the seed and the step: with them a resumed run draws what this one would have.

        Runs that pass the same ``seed`` on every rank may restore all ranks from the state of one.
        """
        return {"seed": self._stream.seed, "step": self._stream.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from the state of `state_dict`.

        Raises:
            ValueError: ``state`` is no such state.
        """
        good = set(state) == {"seed", "step"} and all(
            type(value) is int for value in state.values()
        )
        if not good:
            raise ValueError(f"a state holds the numbers seed and step, but this is {state!r}.")
        self._stream.seed, self._stream.step = state["seed"], state["step"]

    def verify(self, *args: Any, **kwargs: Any) -> Report:
        """Prove by numbers that mixing at each eligible layer mixes the outputs and nothing else.

        With λ = 0 a valid layer permutes the model's outputs. That is tried on the model itself, as
        it trains, but with other parameters and buffers in the places of its own, so that nothing
        of it changes.

        Args:
            args: one batch, as the model is called.
            kwargs: likewise.

        Returns:
            For every layer whether it is proven, failed, inconclusive or could not be tried, with
            the reason.
        """
        mask = self._mask_in(args, kwargs)
        moved = self._runs.seats.moved_of(self.layers)
        there = [name for name in self.layers if name not in moved]
        with self._looking():
            if not moved and (not self._looked or (mask is not None and not self._padding.known)):
                with suppress(NotTraceable):
                    table = look_for(self._model, self.layers, args, kwargs, mask, self._outputs)
                    self._note(table)
            proofs = self._prove(there, args, kwargs, mask).layers
        proven = {proof.layer: proof for proof in proofs}
        return Report(
            tuple(proven.get(n) or LayerProof(n, "failed", moved[n]) for n in self.layers)
        )

    def _prove(
        self, layers: Iterable[str], args: tuple[Any, ...], kwargs: dict[str, Any], mask: str | None
    ) -> Report:
        how = self._run_staged, mask, self._outputs, self._lead
        return prove(self._model, list(layers), args, kwargs, *how)

    def assert_verified(self, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError unless `verify` proves every eligible layer."""
        report = self.verify(*args, **kwargs)
        if not report.ok:
            raise ValueError(f"not every layer is proven to be a place to mix:\n{report}")

    def remove(self) -> None:
        """Take every hook off the model; wrapped criteria are the plain ones from then on."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._switch.set(None)
        self.plan = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ManifoldMixup":
        return _unattached(self.layers)

    def __reduce__(self) -> tuple[Any, tuple[tuple[str, ...]]]:
        return _unattached, (self.layers,)

    # Hooks

    def _register(self) -> list[Any]:
        modules = named_layers(self._model)
        handles: list[Any] = [_compiled.Mark(modules[name]) for name in self._hooks]
        for name, hook in self._hooks.items():
            in_front = getattr(self._rows.get(name), "in_front", False)
            handles.append(hook_after(modules[name], hook, prepend=in_front))
        begin, end = EagerHook(self, self._begin), EagerHook(self, self._end)
        handles.append(self._model.register_forward_pre_hook(begin, with_kwargs=True))
        # Also after an exception, so that no layer called later takes the pass for running.
        handles.append(self._model.register_forward_hook(end, always_call=True))
        return handles + self._padding.register(self._model) + self._watch_blocks()

    def _watch_blocks(self) -> list[Any]:
        """Let every compiled block inside an eager model know which pass is being recomputed."""
        handles = []
        for block in _compiled.blocks(self._model):
            if block not in self._blocks:
                self._blocks.add(block)
                enter = BlockHook(self, self._enter_block)
                leave = BlockHook(self, self._leave_block)
                handles.append(block.register_forward_pre_hook(enter))
                handles.append(block.register_forward_hook(leave, always_call=True))
        return handles

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if getattr(module, "_is_replica", False):
            raise TypeError(_DATA_PARALLEL)
        training = self._model.training and torch.is_grad_enabled()
        mixing = self._told[-1] is not None if self._told else training
        traced = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if mixing and traced:
            raise RuntimeError(_EXPORTED)
        recomputed = self._passes.recomputed(strict=mixing)
        if recomputed is None:
            turn = self._next_pass(args, kwargs, training=training, mixing=mixing)
            if training or mixing:
                self.plan = turn.plan
            self._idle.over |= training
            self._error_before = sys.exc_info()[1]
        else:
            turn = self._replayed(recomputed)
        self._switch.runs = 0
        self._switch.set(turn)
        if turn.plan is not None and is_input(turn.plan.layer):
            return self._mix_input(turn.plan, turn.held, args, kwargs)
        return None

    def _replayed(self, recomputed: Pass) -> Pass:
        """Return a pass that is being recomputed, once."""
        recomputation = _autograd.recomputation()
        if recomputation == self._recomputation:
            raise RuntimeError(
                "a checkpoint holds several calls of the model, and it cannot be told which of "
                "them is being recomputed. Checkpoint each call on its own."
            )
        self._recomputation = recomputation
        return recomputed

    def _next_pass(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, training: bool, mixing: bool
    ) -> Pass:
        if not mixing:
            return self._passes.start(None, training=training)
        inputs = list(named_inputs(unwrap(self._model), args, kwargs))
        if self._told and (self._padding.unknown(inputs) or (training and self._unchecked)):
            self._check(args, kwargs)
        plan = self._next_plan(inputs, args, kwargs)
        held = None if plan is None else self._padding.held(inputs)
        return self._passes.start(plan, training=training, held=held)

    def _next_plan(
        self, inputs: list[tuple[str, Tensor]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> MixPlan | None:
        lead = leading(inputs, self._lead)
        if self._told and (told := self._told[-1]) is not None:
            # Moved once, so that all passes of one plan know it for the same.
            plan = self._told[-1] = told.to(lead.device)
            if plan.batch != len(lead):
                raise ValueError(
                    f"the plan in use pairs {plan.batch} examples, but the model was called with "
                    f"{len(lead)}, shape {tuple(lead.shape)}."
                )
            return plan
        for name in filter(is_input, self.layers):
            # Raises before anything is drawn.
            mixed_input(name, inputs, self._padding.name, len(lead))
        if self._first:
            self._first = False
            _compiled.warn_of_forward(self._model)
        if self._unchecked or self._padding.unknown(inputs):
            self._check(args, kwargs)
            lead = leading(inputs, self._lead)
        return self._stream.draw(self.layers, len(lead), lead.device)

    def _mix_input(
        self,
        plan: MixPlan,
        held: Tensor | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        core = unwrap(self._model)
        inputs = list(named_inputs(core, args, kwargs))
        wanted = mixed_input(plan.layer, inputs, self._padding.name, plan.batch)

        def mix_wanted(name: str, tensor: Tensor) -> Tensor:
            if name != wanted:
                return tensor
            if held is not None and plan.layer in self._padding.inputs:
                return _masks.mix_states(tensor, plan.lam, plan.perm, held)
            return _mix.mix(tensor, plan)

        return map_inputs(mix_wanted, core, args, kwargs)

    def _end(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._passes.recomputed(strict=False) is None:
            running = self._passes.running
            failed = sys.exc_info()[1] is not self._error_before
            try:
                if running is not None and not failed:
                    self._account(running, output)
                elif not failed:
                    self._passes.refuse_nesting()
            finally:
                output = self._passes.finish(output)
                self._error_before = None
                self._leave_block()
        else:
            self._leave_block()
        return output

    def _enter_block(self, *_: Any) -> None:
        recomputed = self._passes.recomputed()
        if recomputed is not None:
            self._switch.set(recomputed)

    def _leave_block(self, *_: Any) -> None:
        self._switch.set(self._passes.running)

    def _account(self, finished: Pass, output: Any) -> None:
        """Make sure that the layer of the plan ran once; if it was skipped, drop the plan."""
        plan = finished.plan
        hook = None if plan is None else self._hooks.get(plan.layer)
        if self._runs.skipped(finished, self._switch.runs):
            finished.unmix()
            self.plan = None
            self.skipped += 1
        elif hook is not None and hook.traced and not hook.watched:
            hook.watched = True
            self._handles += self._watch_blocks()  # compiled after attaching, perhaps
        finished.require_tensor(output)
        if self._fresh:
            self._fresh = False
            require_real(output)

    # The structural view

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for reason in self._runs.seats.moved_of(self.layers).values():
            raise RuntimeError(f"{reason}.")
        mask = self._mask_in(args, kwargs)
        self._fresh = True
        try:
            with self._looking():
                table = look_for(self._model, self.layers, args, kwargs, mask, self._outputs)
        except NotTraceable as error:
            self._unchecked = False
            if mask is not None:
                raise NotTraceable(f"it cannot be seen who reads {mask!r}: {error}") from error
            way_out = (
                " Give example=(one batch) when attaching, before anything is sharded, to have "
                "them checked; or say check=False."
                if isinstance(error, Sharded)
                else " Say check=False to mix there all the same."
            )
            warn(f"the layers {list(self.layers)} were not checked: {error}.{way_out}")
        else:
            with self._looking():
                self._take(table, args, kwargs)
            self._handles += self._padding.register(self._model)

    def _take(self, table: LayerTable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take over what the structural view found, or raise if a layer is no place to mix."""
        mask = self._mask_in(args, kwargs)
        if self._checks:
            self.layers = check_layers(table, self.layers)
            self._passes.checked = True
        self._note(table)
        if self._checks and (mask is not None or table.once):
            report = self._prove(self.layers, args, kwargs, mask)
            if mask is not None:
                self._require_proof(report, table)
            if table.once:
                require_proven(report)
        self._padding.known |= mask is not None
        self._unchecked = False

    def _require_proof(self, report: Report, table: LayerTable) -> None:
        """Raise ValueError unless all layers are proven: what could not be tried is not."""
        given = f"with mask={self._padding.name!r} mixed too"
        if any(proof.verdict == "failed" for proof in report.layers):
            raise ValueError(
                f"{given}, not every layer can be mixed:\n{report}\n"
                f"What is not 0 in a mask counts as seen, or as padding if 'pad' is in its name."
                f"{table.without_mask()}"
            )
        if not report.ok:
            raise ValueError(
                f"{given}, it could not be proven that every layer can be mixed:\n{report}\n"
                f"Give a batch on which it can; or say check=False to mix there all the same."
            )

    def _mask_in(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Name the mask if the batch has one."""
        inputs = named_inputs(unwrap(self._model), args, kwargs)
        return next((name for name, _ in inputs if name == self._padding.name), None)

    def _note(self, table: LayerTable) -> None:
        """Take over which layers run, and which parts of their outputs are to be mixed."""
        self._note_rows(rows_of(table, self.layers))
        self._lead = table.lead
        self._looked = True

    def _note_rows(self, rows: Mapping[str, LayerRow | InputRow]) -> None:
        self._rows.update(rows)
        for name, row in rows.items():
            self._padding.note(name, row)
            if row.readers and row.mask == self._padding.name:
                self._runs.seats.read(name, [reader.layer for reader in row.readers])
            if isinstance(row, LayerRow):
                self._hooks[name].unmixed = row.unmixed
                if row.in_front:
                    to_front(named_layers(self._model)[name], self._hooks[name])
                self._hooks[name].counts = not row.checkpointed
                self._runs.known.add(name)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """See states where the hooks mix them: others' hooks may stand before and behind."""
        for hook in self._hooks.values():
            hook.looking = True
        try:
            yield
        finally:
            for hook in self._hooks.values():
                hook.looking = False

    @contextmanager
    def _run_staged(
        self, staged: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], plan: MixPlan | None
    ) -> Iterator[Any]:
        """Run the model on its stage through hooks like ours, which are away, in their places."""
        if plan is None:
            yield staged(*args, **kwargs)
            return
        with ManifoldMixup(staged, [plan.layer], check=False) as mixup, mixup.using(plan):
            mixup._padding.name, mixup._lead = self._padding.name, self._lead
            mixup._note_rows({name: row for name, row in self._rows.items() if name == plan.layer})
            mixup._handles += mixup._padding.register(staged)
            for name in mixup._hooks:
                into_place(named_layers(staged)[name])
            output = staged(*args, **kwargs)
            mixup.target(None, output)  # the proof goes backward without targets
            yield output

    def _give_way(self) -> None:
        self.remove()
        self._replaced = True


def _refuse(model: nn.Module, layers: object, example: object, mask: object) -> None:
    if isinstance(model, nn.DataParallel):
        raise TypeError(_DATA_PARALLEL)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is a {type(model).__name__}.")
    if isinstance(unwrap(model), torch.jit.ScriptModule):
        raise TypeError(f"the model cannot be attached to: {SCRIPTED}.")
    if layers is None and example is None:
        raise ValueError(
            "layers=None has the layers chosen from one batch: give example=x as well, or name the "
            'layers, for example layers=["input", "layer1", "layer2"].'
        )
    require_argument(model, mask)


def _attached_to(model: nn.Module) -> list[ManifoldMixup]:
    hooks = (
        hook
        for module in model.modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    )
    owners = (hook.owner for hook in hooks if isinstance(hook, EagerHook | LayerHook))
    return list(dict.fromkeys(owner for owner in owners if isinstance(owner, ManifoldMixup)))


def _unattached(layers: tuple[str, ...]) -> ManifoldMixup:
    """Make what a copy of a ManifoldMixup is: one that was removed, as its model is not here."""
    twin = ManifoldMixup(nn.Identity(), ["input"])
    twin.remove()
    twin.layers = layers
    return twin


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Say how the model is called with a batch."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def _find_for(
    model: nn.Module,
    layers: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    mask: str | None,
    outputs: tuple[str, ...] | None,
) -> LayerTable:
    try:
        return look_for(model, layers, args, kwargs, mask, outputs)
    except Sharded as error:
        raise Sharded(f"{error}. {_BEFORE}, or {_WITHOUT}.") from error
    except NotTraceable as error:
        raise NotTraceable(f"{error}. Else {_WITHOUT}.") from error


_BEFORE = "Attach before the model is sharded"
_WITHOUT = "name the layers, leave example= out and say check=False"
_EXPORTED = (
    "the model is being exported or traced while it mixes: the result would mix every batch by one "
    "plan. Call mixup.remove() first, or export in eval mode."
)
_DATA_PARALLEL = (
    "nn.DataParallel runs replicas of the model in threads, each on a part of the batch, so that "
    "no plan can hold for all of it. Use DistributedDataParallel, and attach in each process."
)
_REMOVED = "this ManifoldMixup was removed from its model. Attach a new one."
_REPLACED = (
    "another ManifoldMixup has taken the place of this one on its model (replace=True). Wrap the "
    "criterion with the new one."
)
