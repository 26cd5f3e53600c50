"""Schedule: return the next plan, drawn from the stream or overridden by the user."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._blend import Interpolate
from manifold_mixup._draw.stream import VERSION, Stream
from manifold_mixup._plan import MixPlan
from manifold_mixup._tree import leaves, map_leaves
from manifold_mixup._warn import warn


class Schedule:
    """The plans of the forward passes of one model, in order.

    Args:
        stream: draws the plan of every training pass that the user does not override.

    Attributes:
        began: whether `begin` was called.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._overrides: list[MixPlan | None] = []  # by `using` and `paused`; innermost last
        self._targets: list[Any] = []  # those of the next pass that draws, if they were given
        # The partners of the latest plan that depends on targets, with these; None before and after
        # a warning.
        self._drawn_by: tuple[Tensor, Any] | None = None
        self._warned = False
        self.began = False

    def __repr__(self) -> str:
        stream = self._stream
        alpha = getattr(stream.alpha, "__name__", stream.alpha)
        each = ", per_sample=True" if stream.per_sample else ""
        rules = "" if stream.pairs == "any" else f", pairs={_named(stream.pairs)}"
        rules += "" if stream.label is None else f", label={_named(stream.label)}"
        rules += "" if stream.blend == Interpolate() else f", blend={stream.blend!r}"
        rules += "" if stream.noise is None else f", noise={stream.noise!r}"
        return f"alpha={alpha}, p={stream.p}{each}{rules}, seed={stream.seed}, step={stream.step}"

    @property
    def overridden(self) -> bool:
        """Whether the user overrides the plan of the next pass."""
        return bool(self._overrides)

    @property
    def needs_targets(self) -> bool:
        """Whether plans depend on the targets."""
        return self._stream.needs_targets

    def set_targets(self, y: Any) -> None:
        """Keep the targets of the next pass that draws a plan.

        Raises:
            RuntimeError: no pass has used those that were given before.
        """
        if self._targets:
            self._targets.clear()
            raise RuntimeError(_UNUSED)
        if self.needs_targets:
            y = map_leaves(lambda _, leaf: leaf.detach().cpu().as_subclass(Tensor), y)
        self._targets.append(y)

    def _take_targets(self, batch: int) -> Any:
        """Return the targets of a pass, which no other pass gets."""
        if not self._targets:
            raise RuntimeError(_MISSING)
        y = self._targets.pop()
        for path, leaf in leaves(y):
            if leaf.shape[:1] != (batch,):
                raise ValueError(
                    f"mixup.batch was given targets of shape {tuple(leaf.shape)}"
                    f"{path and f' at {path!r}'}, but this pass has {batch} examples: dimension 0 "
                    f"must hold them. Give each pass the targets of its own batch."
                )
        return y

    def warn_of_targets(self, plan: MixPlan | None, y: Any) -> None:
        """Warn once if the loss has other targets than those that the plan's partners follow."""
        if plan is None or self._drawn_by is None or self._drawn_by[0] is not plan.perm:
            return
        from manifold_mixup._draw.given import are_of_another_batch  # few runs need it

        if are_of_another_batch(self._drawn_by[1], y):
            self._drawn_by, self._warned = None, True
            warn(_OTHERS)

    @contextmanager
    def override(self, plan: MixPlan | None) -> Iterator[None]:
        """Mix every pass inside the context by ``plan``, or none; the innermost override wins."""
        self._overrides.append(plan)
        try:
            yield
        finally:
            self._overrides.pop()

    def mixes(self, training: bool) -> bool:
        """Return whether the next pass has a plan: by default, whether it trains."""
        return self._overrides[-1] is not None if self._overrides else training

    def begin(self, model: nn.Module) -> None:
        """Before the first plan, look whether several processes compute one batch together."""
        self.began = True
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            from manifold_mixup._draw.ranks import rank_of_batch  # only then is it needed

            self._stream.rank = rank_of_batch(model)

    def next(self, layers: Sequence[str], batch: int, device: torch.device) -> MixPlan | None:
        """Return the plan of the next pass, given that it `mixes`; None if the stream skips it.

        Args:
            layers: the eligible layers.
            batch: the number of examples in the pass.
            device: the device of the inputs.

        Raises:
            RuntimeError: the plans depend on the targets, which were not given.
            ValueError: the user's plan, or the targets, are for another batch size.
        """
        if not self._overrides or self._overrides[-1] is None:
            stream, y = self._stream, None
            if self._targets or stream.needs_targets:
                y = self._take_targets(batch)
            plan = stream.draw(layers, batch, device, y)
            if plan is not None and stream.needs_targets and not self._warned:
                self._drawn_by = plan.perm, y
            return plan
        # Move the plan once, so that all its passes share the same object.
        plan = self._overrides[-1] = self._overrides[-1].to(device)
        if plan.batch != batch:
            raise ValueError(
                f"the plan in use pairs {plan.batch} examples, but the model was called with "
                f"{batch}."
            )
        return plan

    def state_dict(self) -> dict[str, int]:
        """Return the seed and the step of the stream, and which stream it is."""
        stream = self._stream
        return {"seed": stream.seed, "step": stream.step, "stream": stream.version}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from the state of `state_dict`; one without ``"stream"`` has the first stream.

        Raises:
            ValueError: ``state`` does not come from `state_dict`, or from a later version.
        """
        given = {"stream": 1, **state} if isinstance(state, Mapping) else {}
        good = set(given) == {"seed", "step", "stream"} and all(
            type(value) is int for value in given.values()
        )
        if not good:
            raise ValueError(
                f"a state must hold the integers seed and step, and may hold stream, but is "
                f"{state!r}."
            )
        if not 1 <= given["stream"] <= VERSION:
            raise ValueError(
                f"the state is of stream {given['stream']}, but this version of manifold-mixup "
                f"knows the streams up to {VERSION}. Install the version that saved it."
            )
        stream = self._stream
        stream.seed, stream.step, stream.version = given["seed"], given["step"], given["stream"]


def _named(rule: Any) -> str:
    return getattr(rule, "__name__", None) or repr(rule)


_UNUSED = (
    "mixup.batch(y) was called again before a training pass used the targets it had been given. "
    "Call it right before each training pass, and not before passes that draw no plan: in eval "
    "mode, without gradients, in using and in paused."
)
_OTHERS = (
    "the partners of this batch follow other targets than its loss has: mixup.batch was given "
    "those of another batch, or in another order. Call mixup.batch(y) with the targets of the "
    "batch that the model gets next. If the partners are meant to follow something that the "
    "targets of the loss do not determine, nothing is wrong."
)
_MISSING = (
    "the plans depend on the targets, by pairs or label, but this training pass has none: call "
    "mixup.batch(y) right before each, once. Passes that must not be mixed belong in "
    "mixup.paused()."
)
