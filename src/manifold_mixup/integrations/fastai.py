"""Manifold Mixup in fastai: a callback."""

from collections.abc import Iterable
from typing import Any

from fastai.callback.core import Callback
from fastai.losses import BaseLoss
from torch import nn

from manifold_mixup import ManifoldMixup
from manifold_mixup.integrations._options import split_options


class ManifoldMixupCallback(Callback):  # type: ignore[misc] # of a type that is not read
    """Mix the hidden states of a Learner's model, and the targets to match, during a fit.

    The callback attaches when a fit begins and detaches when it ends. If the Learner is fitted
    again, the stream of plans continues; it also continues from a given ``state``.

    Args:
        layers: the eligible layers of the model; None chooses them from a batch of the Learner.
        state: state of the stream of plans, from the attribute ``state`` of an earlier callback.
        options: ``alpha``, ``p``, ``per_sample``, ``seed`` and all other options of
            `ManifoldMixup`; ``targets`` and all other options of its `wrap`, for the loss.

    Raises:
        ValueError: in a fit, a layer cannot be mixed.
    """

    run_valid = False

    def __init__(
        self,
        layers: str | nn.Module | Iterable[str | nn.Module] | None = None,
        *,
        state: dict[str, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options, self.of_wrap = split_options(options)
        self.layers, self.state = layers, state or {}
        self.mixup: ManifoldMixup | None = None
        self.plain: Any = None

    def before_fit(self) -> None:
        """Attach to the model, and mix the targets of the loss."""
        self._detach()  # clean up after a failed fit, whose end fastai does not report
        options = dict(self.options)
        if self.layers is None:
            options.setdefault("example", self._example())
        self.mixup = ManifoldMixup(self.learn.model, self.layers, **options)
        if self.state:
            self.mixup.load_state_dict(self.state)
        self.plain = self.learn.loss_func
        of_wrap = dict(self.of_wrap)
        if isinstance(
            self.plain, BaseLoss
        ):  # wraps a PyTorch loss on flattened tensors, so floating targets can be mixed
            of_wrap.setdefault("targets", "mix")
        self.learn.loss_func = _Loss(self.plain, self.mixup, of_wrap)

    def _example(self) -> tuple[Any, ...]:
        batch = self.learn.dls.one_batch()
        count = getattr(self.learn.dls, "n_inp", max(len(batch) - 1, 1))  # as the Learner splits it
        return tuple(batch[:count])

    def before_batch(self) -> None:
        """Give the targets to plans that depend on them."""
        if self.mixup is not None and self.mixup.needs_targets:
            self.mixup.batch(_one_or_all(self.learn.yb))

    def after_batch(self) -> None:
        """Keep the state of the stream."""
        if self.mixup is not None:
            self.state = self.mixup.state_dict()

    def after_fit(self) -> None:
        """Detach."""
        self._detach()

    def after_cancel_fit(self) -> None:
        """Detach."""
        self._detach()

    def _detach(self) -> None:
        if self.mixup is not None:
            self.mixup.remove()
        if self.plain is not None:
            self.learn.loss_func, self.plain = self.plain, None


def _one_or_all(targets: Any) -> Any:
    return targets[0] if len(targets) == 1 else tuple(targets)


class _Loss:
    """The mixed loss of a Learner; other attributes (activations, names) are those of the loss."""

    def __init__(self, plain: Any, mixup: ManifoldMixup, of_wrap: dict[str, Any]) -> None:
        self.plain, self.mixup, self.of_wrap = plain, mixup, of_wrap

    def __call__(self, output: Any, *targets: Any, **options: Any) -> Any:
        y = _one_or_all(targets)
        plain = self.plain if len(targets) == 1 else lambda output, y: self.plain(output, *y)
        return self.mixup.target(y, output, **self.of_wrap).loss(plain, output, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)
