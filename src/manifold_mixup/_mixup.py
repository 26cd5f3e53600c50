"""ManifoldMixup: attach to a model, mix its forward passes, and mix the targets to match."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from manifold_mixup import _own_calls
from manifold_mixup._attach import compiled
from manifold_mixup._attach.attachment import DATA_PARALLEL, Attachment, owners_on
from manifold_mixup._attach.grids import Grids
from manifold_mixup._attach.padding import require_argument
from manifold_mixup._attach.source import Source
from manifold_mixup._batch_first import require_dimension
from manifold_mixup._blend import Blend, Interpolate, has_positions, require_layers, ways_of
from manifold_mixup._checks import Checks
from manifold_mixup._draw.pairs import Pairs
from manifold_mixup._draw.remix import LabelRule
from manifold_mixup._draw.schedule import Schedule
from manifold_mixup._draw.stream import Alpha, Stream
from manifold_mixup._dry_run.errors import SCRIPTED, Hookless, NotTraceable, Sharded
from manifold_mixup._find import expand_runs, rows_of
from manifold_mixup._inputs import accepts
from manifold_mixup._layers import (
    ALL_RUNS,
    is_input,
    module_name,
    named_layers,
    resolve,
    run_name,
    split_run,
    unwrap,
)
from manifold_mixup._noise import Noise
from manifold_mixup._outputs import as_paths
from manifold_mixup._plan import MixPlan
from manifold_mixup._proof.report import Report
from manifold_mixup._structure.table import LayerTable
from manifold_mixup._target.arguments import Keys
from manifold_mixup._target.criterion import MixedCriterion
from manifold_mixup._target.dense import Dense
from manifold_mixup._target.losses import Criterion
from manifold_mixup._target.mixed_target import MixedTarget
from manifold_mixup._target.rule import Declarations, Targets

_PLAIN = Interpolate()


class ManifoldMixup:
    """Attach Manifold Mixup (Verma et al., 2019) to a model.

    From then on, every forward pass in train mode with gradients enabled draws a layer, a λ and a
    permutation, and mixes the hidden state at that layer. Compute the loss with a criterion from
    `wrap`, which mixes the targets the same way. Nothing else in the model changes, and `remove`
    undoes it.

    Args:
        model: any module. Compile it first, and attach to the compiled model.
        layers: the eligible layers S: names, patterns such as ``"encoder.layer.*"``, or modules;
            ``"input"`` is the model's input, ``"input:NAME"`` one of several. ``"block@3"`` is run
            3, counted from 0, of a module that runs several times, and ``"block@*"`` each run that
            can be mixed. With None, layers are chosen from ``example``.
        example: one batch: a tensor, a tuple of positional or a dict of keyword arguments;
            ``(batch,)`` if the model's forward takes the dict itself.
        alpha: λ ~ Beta(alpha, alpha). A number above 0, or a callable that maps the step to such
            a number, or to None to leave that batch unmixed. The step counts training forward
            passes, except those in `paused` and `using`.
        p: fraction of the batches that are mixed, 0 to 1. The paper mixes all of them.
        per_sample: draw one λ per example instead of one per batch.
        pairs: who is mixed with whom: ``"any"``, a uniform permutation; ``"same_class"``;
            ``"other_class"``; `Near`, near in the label; or a function that maps the targets and a
            generator to the partners, int64 ``(batch,)``. All but the first need `batch`. A row
            without a partner of its kind keeps itself.
        label: how much each target counts, if not λ: `Remix`, or a function that maps λ of each
            row, the targets and the partners' targets to the share of the own target, ``(batch,)``.
            It needs `batch`, and losses per row, as ``per_sample`` does.
        blend: how a state is mixed with its partner: `Interpolate`; `Cut` (CutMix) and `PatchUp`,
            which need positions; `SimilarityKernel`; `Align` (AlignMixup); `OneOf` several; or a
            dict of them by layer, ``"*"`` for the others. All but the first determine how
            much each target counts.
        noise: `Noise` on the mixed state, on top of any way.
        mask: name of the model argument that holds the padding mask, such as ``"attention_mask"``.
            The mask is mixed too, in every module that receives it after the mixed layer: a
            position's weight is the total share of the examples that are not padded there.
        outputs: path or paths of the outputs that the loss reads, such as ``"logits"`` or ``"0"``,
            if the model returns more than those (hidden states, attentions). None means all
            outputs.
        batch_dim: the dimension of the model's inputs and outputs, and of targets, that holds the
            batch: 1 for ``(time, batch, ...)``. Tensors with fewer dimensions hold it at 0, and so
            do targets if the outputs do.
        check: check that nothing bypasses a chosen layer: when attaching if there is an
            ``example``, otherwise on the first training batch. With a ``mask``, or if the model
            runs with one batch size only, also prove it numerically.
        replace: replace the attachment that the model already has.
        seed: seed of the plans; None takes `torch.initial_seed`. In a distributed run, each rank
            draws its own plans from the shared seed.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or a layer is unknown or bypassed.
        RuntimeError: the model already has an attachment.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> mixup = ManifoldMixup(model, layers=["input", "1"], alpha=2.0, seed=0)
        >>> criterion = mixup.wrap(nn.CrossEntropyLoss())
        >>> loss = criterion(model(torch.randn(16, 4)), torch.randint(3, (16,)))
        >>> loss.backward()
        >>> mixup.plan
        MixPlan(layer='1', lam=0.5716, batch=16)
    """

    layers: tuple[str, ...]
    """The names of the eligible layers, in order of execution if it is known."""

    def __init__(
        self,
        model: nn.Module,
        layers: str | nn.Module | Iterable[str | nn.Module] | None = None,
        *,
        example: Any = None,
        alpha: Alpha = 2.0,
        p: float = 1.0,
        per_sample: bool = False,
        pairs: Pairs = "any",
        label: LabelRule | None = None,
        blend: Blend = _PLAIN,
        noise: Noise | None = None,
        mask: str | None = None,
        outputs: str | Iterable[str] | None = None,
        batch_dim: int = 0,
        check: bool = True,
        replace: bool = False,
        seed: int | None = None,
    ) -> None:
        _refuse_arguments(model, layers, example, mask, batch_dim)
        paths = as_paths(outputs)
        seed = torch.initial_seed() if seed is None else seed
        rules: dict[str, Any] = {"pairs": pairs, "label": label, "blend": blend, "noise": noise}
        stream = Stream(alpha, p=p, per_sample=per_sample, seed=seed, **rules)
        _refuse_mask(blend, mask)
        _refuse_own_call(model, check)
        self._schedule = Schedule(stream)
        previous = _previous_on(model, replace)
        self.layers, found = _choose_layers(model, layers, example, mask, paths, batch_dim, blend)
        require_layers(blend, self.layers)
        self._attachment = Attachment(
            model,
            self.layers,
            owner=self,
            mask=mask,
            outputs=paths,
            batch_dim=batch_dim,
            mixes=self._schedule.mixes,
            next_plan=self._next_plan,
            look_again=self._look_again,
            blend=blend,
        )
        self._checks = Checks(
            self._attachment, mask=mask, outputs=paths, enabled=check, batch_dim=batch_dim
        )
        if found is not None:
            self.layers = self._checks.accept(found, self.layers, *_as_call(example))
        self._replaced = False
        for old in previous:
            old._mark_replaced()
        self._attachment.register()
        compiled.warn_of_limit(model, self.layers, blend, sometimes=p < 1 or callable(alpha))

    @property
    def plan(self) -> MixPlan | None:
        """The plan of the running or latest training forward pass; None if it is not mixed."""
        return self._attachment.plan

    @property
    def skipped(self) -> int:
        """The number of plans whose layer did not run."""
        return self._attachment.skipped

    def __repr__(self) -> str:
        state = "" if self._attachment.attached else ", removed"
        skipped = f", skipped={self.skipped}" if self.skipped else ""
        return f"ManifoldMixup(layers={list(self.layers)}, {self._schedule}{skipped}{state})"

    # What a training loop calls

    @property
    def needs_targets(self) -> bool:
        """Whether `batch` must be called before each training pass: by ``pairs`` or ``label``."""
        return self._schedule.needs_targets

    def batch(self, y: Any) -> None:
        """Give the targets of the next training pass, on which its plan may depend.

        Call it right before each training pass if ``pairs`` or ``label`` needs the targets; else it
        only checks their number of rows. Exactly the next pass that draws a plan uses them.

        Args:
            y: the targets, with the batch at dimension 0: what ``pairs`` and ``label`` compare.

        Raises:
            RuntimeError: the targets that were given before have not been used. A training pass
                without targets raises it too, if its plan depends on them.
            ValueError: in the pass: they have another number of rows.
        """
        self._schedule.set_targets(y)

    def wrap(
        self,
        criterion: Criterion,
        *,
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
        dense: Dense = None,
    ) -> MixedCriterion:
        """Return a criterion that mixes the targets the way the output's pass was mixed.

        Args:
            criterion: any loss, called as ``criterion(output, target, *more)`` or with keyword
                arguments. For a mixed batch it is evaluated with both targets; see `MixedTarget`.
            targets: ``"mix"`` interpolates floating point targets, ``"ends"`` interpolates the
                losses. None interpolates the targets of the PyTorch losses that `MixedTarget`
                lists, and the losses of all others.
            with_target: names or positions of further arguments that come from the data and are
                mixed with the target, such as weights or lengths. Positions count from 0, which is
                the output.
            with_output: names or positions of arguments that the model computed.
            whole: names or positions of arguments without a batch dimension, even if they have as
                many rows as the batch.
            dense: whether the target has positions, as a mask or a class per token has, or the
                dimensions that they are, such as ``(1, 2)``; a single one holds them row by row.
                If the state was mixed by position, each follows that of the state: a box selects
                it, and patches weigh it by the mean weight of the features there. None finds out:
                classes ``(batch, *positions)``, their probabilities ``(batch, classes,
                *positions)``, and other floating targets if only one reading fits.

        Returns:
            A module to call in place of ``criterion``. For outputs of passes that were not mixed
            (in eval mode, under ``no_grad``, in `paused`, after `remove`) it is the plain
            criterion.

        Raises:
            TypeError: ``criterion`` is already wrapped.
            ValueError: the criterion has no argument of a declared name or position.
        """
        if isinstance(criterion, MixedCriterion):
            raise TypeError(
                "this criterion is already wrapped, and wrapping it twice would mix the targets "
                "twice. Wrap the plain criterion, criterion.criterion."
            )
        options = targets, with_target, with_output, whole, dense
        return MixedCriterion(criterion, self._source_of, *options)

    def target(
        self,
        y: Any,
        output: Any = None,
        *,
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
        dense: Dense = None,
    ) -> MixedTarget:
        """Return the targets, mixed the way the forward pass behind ``output`` was.

        Args:
            y: the targets of the batch. None if the output has no target, such as the mean and
                variance of a VAE; without this, backward through its loss raises.
            output: what the model returned, or anything computed from it; None means the latest
                forward pass.
            targets: see `wrap`, also for the next four.
            with_target: further arguments of the criterion that are mixed with the target.
            with_output: arguments that the model computed.
            whole: arguments without a batch dimension.
            dense: whether the target has positions.

        Raises:
            RuntimeError: in training, ``output`` comes from no forward pass, or from several.
            ValueError: the batch size of the targets differs from that of the pass, or a mixed pass
                computed the targets.
        """
        declared = Declarations(
            targets=targets,
            with_target=with_target,
            with_output=with_output,
            whole=whole,
            dense=dense,
        )
        source = self._source_of(y, output)
        mixed = MixedTarget(y, source.plan, batch_dim=source.batch_dim, **declared)
        if not torch.is_grad_enabled():  # the loss is only logged
            return mixed
        return mixed.claiming(source)

    def _source_of(self, y: Any, output: Any) -> Source:
        """Return the source of an output, whose targets ``y`` are about to be mixed."""
        if self._replaced:
            raise RuntimeError(_REPLACED)
        source = self._attachment.source_of(y, output)
        if source.looked_at and self._schedule.needs_targets:
            self._schedule.warn_of_targets(source.plan, y)
        return source

    @contextmanager
    def using(self, plan: MixPlan | None) -> Iterator[None]:
        """Mix every forward pass inside the context by ``plan``, in train and in eval mode.

        Gradients may be enabled or not. None, the `plan` of a batch that was not mixed, mixes
        nothing, as in `paused`.

        Args:
            plan: a plan of as many examples as the batches have, at one of the eligible layers.

        Raises:
            RuntimeError: this ManifoldMixup was removed or replaced.
            ValueError: the plan's layer is not among the eligible ones; in the pass: the batch has
                another number of examples.
        """
        if not self._attachment.attached:
            raise RuntimeError(_REPLACED if self._replaced else _REMOVED)
        if plan is not None and plan.layer not in self.layers:
            raise ValueError(
                f"the plan mixes at {plan.layer!r}, but the eligible layers are "
                f"{list(self.layers)}."
            )
        with self._schedule.override(plan):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Mix nothing inside the context, even in train mode, and draw no plans.

        If this is nested with `using`, the innermost context wins.
        """
        with self._schedule.override(None):
            yield

    def state_dict(self) -> dict[str, int]:
        """Return the seed and the step, from which a resumed run draws the same plans.

        ``"stream"`` says which stream of plans it is: 2, or 1 for a run that began before there
        were two, and goes on with the draws it had.

        If every rank was given the same ``seed``, one rank's state can restore all ranks.
        """
        return self._schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from the state of `state_dict`; without ``"stream"``, it is of the first stream.

        Raises:
            ValueError: ``state`` does not come from `state_dict`, or from that of a later version.
        """
        self._schedule.load_state_dict(state)

    def verify(self, *args: Any, progress: bool = True, **kwargs: Any) -> Report:
        """Prove numerically that mixing at each layer mixes the outputs and nothing else.

        With λ = 0, mixing at a valid layer permutes the model's outputs. This is tested on the
        model itself, in train mode, with stand-ins for its parameters and buffers, so that the
        model does not change.

        Args:
            args: positional arguments of the model, one batch.
            progress: after two seconds, show a progress line on stderr, in a terminal or a
                notebook.
            kwargs: keyword arguments of the model.

        Returns:
            A verdict for each layer (proven, failed, inconclusive or skipped), with the reason.
        """
        return self._checks.verify(self.layers, args, kwargs, progress=progress)

    def assert_verified(self, *args: Any, progress: bool = True, **kwargs: Any) -> None:
        """Raise ValueError unless `verify`, called with the same arguments, proves every layer."""
        report = self.verify(*args, progress=progress, **kwargs)
        if not report.ok:
            raise ValueError(f"not every layer is proven to be a valid place to mix:\n{report}")

    def remove(self) -> None:
        """Remove every hook from the model; wrapped criteria then act like the plain ones."""
        self._attachment.remove()

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

    def _next_plan(
        self,
        inputs: list[tuple[str, Tensor]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        training: bool,
    ) -> MixPlan | None:
        """Check the first batch, which may reorder the layers, and return the plan of a pass."""
        attachment = self._attachment
        if not self._schedule.began:
            self._schedule.begin(attachment.model)
        lead = attachment.leading(inputs)
        rows = attachment.rows_in(lead)
        if not self._schedule.overridden:  # raise before anything is drawn
            attachment.require_inputs(inputs, rows)
        if self._checks.needs_inspection(inputs, args, kwargs, rows=rows, training=training):
            self.layers = self._checks.first_batch(self.layers, args, kwargs)
            lead = attachment.leading(inputs)  # the check may have found another
            rows = attachment.rows_in(lead)
        return self._schedule.next(self.layers, rows, lead.device)

    def _look_again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.layers = self._checks.look_again(self.layers, args, kwargs)

    def _mark_replaced(self) -> None:
        self.remove()
        self._replaced = True


def _refuse_own_call(model: nn.Module, check: bool) -> None:
    """Raise RuntimeError if the call of a model runs no hooks, so that nothing would be mixed."""
    if check and _own_calls.surely_runs_no_hooks(model):
        raise RuntimeError(f"{type(model).__name__} cannot be mixed: {_own_calls.fault(model)}.")


def _refuse_mask(blend: Blend, mask: str | None) -> None:
    """Raise ValueError if positions are cut whose padding is mixed."""
    cuts = [way for way in ways_of(blend) if has_positions(way)]
    if mask is not None and cuts:
        raise ValueError(
            f"blend={cuts[0]!r} takes positions from the partner, and mask={mask!r} says that some "
            f"are padding: sequences of different lengths have no common positions. Use "
            f"Interpolate(), or pad all to one length and leave mask out."
        )


def _refuse_arguments(
    model: nn.Module, layers: object, example: object, mask: object, batch_dim: object
) -> None:
    if isinstance(model, nn.DataParallel):
        raise TypeError(DATA_PARALLEL)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is a {type(model).__name__}.")
    if isinstance(unwrap(model), torch.jit.ScriptModule):
        raise TypeError(f"the model cannot be attached to: {SCRIPTED}.")
    if layers is None and example is None:
        raise ValueError(
            "layers=None chooses the layers from one batch. Pass example=x as well, or name the "
            'layers, for example layers=["input", "layer1", "layer2"].'
        )
    if isinstance(example, Mapping) and not unwrap(model)._forward_pre_hooks_with_kwargs:
        _require_keywords(unwrap(model), example)
    require_argument(model, mask)
    require_dimension(batch_dim)


def _require_keywords(model: nn.Module, example: Mapping[Any, Any]) -> None:
    """Raise TypeError if the items of an example are no keyword arguments of the model."""
    for name in example:
        if not (isinstance(name, str) and accepts(model, name)):
            raise TypeError(
                f"example= is a {type(example).__name__}, whose items are passed as keyword "
                f"arguments, but {type(model).__name__}.forward has no argument {name!r}. Leave it "
                f"out; or, if forward takes the {type(example).__name__} itself, put it into a "
                f"tuple, which holds positional arguments: example=(batch,)."
            )


def _previous_on(model: nn.Module, replace: bool) -> list[ManifoldMixup]:
    """Return the attachments on a model, which are about to be replaced.

    Raises:
        RuntimeError: there is an attachment, but ``replace`` is False.
    """
    previous = [owner for owner in owners_on(model) if isinstance(owner, ManifoldMixup)]
    if previous and not replace:
        elsewhere = unwrap(previous[0]._attachment.model) is not unwrap(model)
        raise RuntimeError((_SHARED if elsewhere else _ATTACHED).format(previous[0]))
    return previous


_ATTACHED = (
    "this model already has {!r} attached. Set replace=True to replace it, or call its remove() "
    "first."
)
_SHARED = (
    "another model that shares a part with this one, contains it or is a part of it, already has "
    "{!r} attached. Attach once, to the part that both share or to the whole, and wrap a criterion "
    "for each output; or call its remove() first. replace=True would detach it."
)


def _unattached(layers: tuple[str, ...]) -> ManifoldMixup:
    """Return the copy of a ManifoldMixup: removed, because the model is not copied with it."""
    copied = ManifoldMixup(nn.Identity(), ["input"])
    copied.remove()
    copied.layers = layers
    return copied


def _choose_layers(
    model: nn.Module,
    layers: str | nn.Module | Iterable[str | nn.Module] | None,
    example: Any,
    mask: str | None,
    outputs: tuple[str, ...] | None,
    batch_dim: int,
    blend: Blend,
) -> tuple[tuple[str, ...], LayerTable | None]:
    """Return the names of the eligible layers, and the table of an example's layers."""
    named = () if layers is None else resolve(model, layers)
    known = named_layers(model)
    for module in dict.fromkeys(module_name(name) for name in named if not is_input(name)):
        if fault := _own_calls.fault_of_layer(module, known[module]):
            raise ValueError(fault)
    if example is None:
        _refuse_every_run(named)
        return named, None
    table = _inspect(model, named, *_as_call(example), mask, outputs, batch_dim)
    chosen = table.default if layers is None else expand_runs(table, named)
    if layers is None and (fitting := Grids(blend).mixable(rows_of(table, chosen))):
        chosen = fitting  # if none fits, the check says why
    return resolve(model, chosen), table


def _refuse_every_run(layers: Iterable[str]) -> None:
    for name in layers:
        module, run = split_run(name)
        if run == ALL_RUNS:
            raise ValueError(
                f"{name!r} stands for each run of {module!r} that can be mixed, which only a batch "
                f"shows. Pass example=x, or name single runs, such as {run_name(module, 0)!r}."
            )


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that pass a batch to the model."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def _inspect(
    model: nn.Module,
    layers: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    mask: str | None,
    outputs: tuple[str, ...] | None,
    batch_dim: int,
) -> LayerTable:
    from manifold_mixup._inspect import inspect_model  # only an inspection needs it

    try:
        return inspect_model(model, layers, args, kwargs, mask, outputs, batch_dim=batch_dim)
    except Hookless:
        raise
    except Sharded as error:
        raise Sharded(f"{error}. {_BEFORE}, or {_WITHOUT}.") from error
    except NotTraceable as error:
        raise NotTraceable(f"{error}. Otherwise {_WITHOUT}.") from error


_BEFORE = "Attach before the model is sharded"
_WITHOUT = "name the layers, omit example= and set check=False"
_REMOVED = "this ManifoldMixup was removed from its model. Attach a new one."
_REPLACED = (
    "another ManifoldMixup has replaced this one on its model (replace=True). Wrap the criterion "
    "with the new one."
)
