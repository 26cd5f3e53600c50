"""ManifoldMixup: attaches to a model, draws its plans, hands targets the plan of their output."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from manifold_mixup._attach import compiled
from manifold_mixup._attach.attachment import DATA_PARALLEL, Attachment, owners_on
from manifold_mixup._attach.padding import require_argument
from manifold_mixup._attach.passes import Source
from manifold_mixup._checks import Checks
from manifold_mixup._dry_run.aside import NotTraceable, Sharded
from manifold_mixup._dry_run.stage import SCRIPTED
from manifold_mixup._find import inspect_model
from manifold_mixup._inputs import mixed_input
from manifold_mixup._layers import is_input, resolve, unwrap
from manifold_mixup._outputs import as_paths
from manifold_mixup._plan import MixPlan
from manifold_mixup._proof.prove import Report
from manifold_mixup._sample import Alpha, Stream
from manifold_mixup._schedule import Schedule
from manifold_mixup._structure.table import LayerTable
from manifold_mixup._target.arguments import Keys
from manifold_mixup._target.criterion import MixedCriterion
from manifold_mixup._target.losses import Criterion
from manifold_mixup._target.mixed_target import MixedTarget
from manifold_mixup._target.rule import Said, Targets


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
        paths = as_paths(outputs)
        seed = torch.initial_seed() if seed is None else seed
        self._schedule = Schedule(Stream(alpha, p=p, per_sample=per_sample, seed=seed))
        previous = _attached_to(model, replace)
        named = () if layers is None else resolve(model, layers)
        batch = None if example is None else _as_call(example)
        table = None if batch is None else _inspect(model, named, *batch, mask, paths)
        if layers is None and table is not None:
            named = resolve(model, table.default)
        self.layers = named
        self._attachment = Attachment(
            model,
            named,
            owner=self,
            mask=mask,
            outputs=paths,
            mixes=self._schedule.mixes,
            next_plan=self._next_plan,
        )
        self._checks = Checks(self._attachment, mask=mask, outputs=paths, wanted=check)
        if table is not None and batch is not None:
            self.layers = self._checks.accept(table, named, *batch)
        self._replaced = False
        for old in previous:
            old._give_way()
        self._attachment.register()
        compiled.warn_of_limit(model, len(self.layers), sometimes=p < 1 or callable(alpha))

    @property
    def plan(self) -> MixPlan | None:
        """The plan of the running or latest training forward pass; None if it is not mixed."""
        return self._attachment.plan

    @property
    def skipped(self) -> int:
        """How many plans fell on a layer that did not run."""
        return self._attachment.skipped

    def __repr__(self) -> str:
        state = "" if self._attachment.attached else ", removed"
        skipped = f", skipped={self.skipped}" if self.skipped else ""
        return f"ManifoldMixup(layers={list(self.layers)}, {self._schedule}{skipped}{state})"

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
        return MixedCriterion(criterion, self._behind, targets, with_target, with_output, whole)

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
        """Return what made an output, for which the targets ``y`` are about to be mixed."""
        if self._replaced:
            raise RuntimeError(_REPLACED)
        return self._attachment.behind(y, output)

    @contextmanager
    def using(self, plan: MixPlan | None) -> Iterator[None]:
        """Mix every forward pass inside by ``plan``: in train and eval mode, with gradients or not.

        None, which is the `plan` of a batch that was not mixed, mixes nothing, as `paused` does.

        Raises:
            RuntimeError: this ManifoldMixup was removed or replaced.
            ValueError: the plan's layer is not among the eligible ones.
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
        """Mix nothing inside, also in train mode; the stream of plans does not move on.

        Of this and `using`, the inner one counts.
        """
        with self._schedule.override(None):
            yield

    def state_dict(self) -> dict[str, int]:
        """Return the seed and the step: with them a resumed run draws what this one would have.

        Runs that pass the same ``seed`` on every rank may restore all ranks from the state of one.
        """
        return self._schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from the state of `state_dict`.

        Raises:
            ValueError: ``state`` is no such state.
        """
        self._schedule.load_state_dict(state)

    def verify(self, *args: Any, progress: bool = True, **kwargs: Any) -> Report:
        """Prove by numbers that mixing at each eligible layer mixes the outputs and nothing else.

        With λ = 0 a valid layer permutes the model's outputs. That is tried on the model itself, as
        it trains, but with other parameters and buffers in the places of its own, so that nothing
        of it changes.

        Args:
            args: one batch, as the model is called.
            progress: show a line of progress after two seconds, on stderr, at a terminal or in a
                notebook.
            kwargs: keyword arguments of the model.

        Returns:
            For every layer whether it is proven, failed, inconclusive or could not be tried, with
            the reason.
        """
        return self._checks.verify(self.layers, args, kwargs, progress=progress)

    def assert_verified(self, *args: Any, progress: bool = True, **kwargs: Any) -> None:
        """Raise ValueError unless `verify`, which takes the same arguments, proves every layer."""
        report = self.verify(*args, progress=progress, **kwargs)
        if not report.ok:
            raise ValueError(f"not every layer is proven to be a place to mix:\n{report}")

    def remove(self) -> None:
        """Take every hook off the model; wrapped criteria are the plain ones from then on."""
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
        """Return the plan of a pass that is to be mixed, once all that is known of it is right."""
        if not self._schedule.overridden:  # raises before anything is drawn
            rows = len(self._attachment.leading(inputs))
            for name in filter(is_input, self.layers):
                mixed_input(name, inputs, self._attachment.padding.name, rows)
        if self._checks.due(inputs, training=training):
            self.layers = self._checks.first_batch(self.layers, args, kwargs)
        return self._schedule.next(self.layers, self._attachment.leading(inputs))

    def _give_way(self) -> None:
        self.remove()
        self._replaced = True


def _refuse(model: nn.Module, layers: object, example: object, mask: object) -> None:
    if isinstance(model, nn.DataParallel):
        raise TypeError(DATA_PARALLEL)
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


def _attached_to(model: nn.Module, replace: bool) -> list[ManifoldMixup]:
    """Return what is attached to a model and is to be replaced.

    Raises:
        RuntimeError: there is something, and it is not to be replaced.
    """
    previous = [owner for owner in owners_on(model) if isinstance(owner, ManifoldMixup)]
    if previous and not replace:
        raise RuntimeError(
            f"this model has {previous[0]!r} attached already. Say replace=True to take its "
            f"place, or call its remove() first."
        )
    return previous


def _unattached(layers: tuple[str, ...]) -> ManifoldMixup:
    """Make what a copy of a ManifoldMixup is: one that was removed, as its model is not here."""
    twin = ManifoldMixup(nn.Identity(), ["input"])
    twin.remove()
    twin.layers = layers
    return twin


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return how the model is called with a batch."""
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
) -> LayerTable:
    try:
        return inspect_model(model, layers, args, kwargs, mask, outputs)
    except Sharded as error:
        raise Sharded(f"{error}. {_BEFORE}, or {_WITHOUT}.") from error
    except NotTraceable as error:
        raise NotTraceable(f"{error}. Else {_WITHOUT}.") from error


_BEFORE = "Attach before the model is sharded"
_WITHOUT = "name the layers, leave example= out and say check=False"
_REMOVED = "this ManifoldMixup was removed from its model. Attach a new one."
_REPLACED = (
    "another ManifoldMixup has taken the place of this one on its model (replace=True). Wrap the "
    "criterion with the new one."
)
