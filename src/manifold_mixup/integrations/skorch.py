"""Manifold Mixup in skorch, and thus in scikit-learn's searches: a callback."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.dataset import unpack_data
from skorch.utils import to_tensor

from manifold_mixup import Interpolate, ManifoldMixup

_PLAIN = Interpolate()


class ManifoldMixupCallback(Callback):  # type: ignore[misc] # of a type that is not read
    """Mix the hidden states of a net's module, and the targets to match, during a fit.

    All arguments can be searched over: ``callbacks__NAME__alpha``, ``callbacks__NAME__layers``. Any
    criterion that skorch supports can be used. The callback attaches at the first training batch of
    a fit and detaches when the fit ends; ``partial_fit`` continues the stream of plans.

    Args:
        layers: the eligible layers of the module; None chooses them from the first batch.
        alpha: see `ManifoldMixup`, also for the other arguments.
        p: fraction of the batches that are mixed.
        per_sample: draw one λ per example.
        pairs: who is mixed with whom.
        label: how much each target counts.
        blend: how a state is mixed with its partner.
        noise: noise on the mixed state.
        mask: name of the module argument that holds the padding mask.
        with_target: further arguments that a ``get_loss`` of your own passes to the criterion and
            that belong to the target, such as weights of the examples.
        check: check that nothing bypasses a layer.
        seed: seed of the plans.

    Raises:
        ValueError: in a fit, the batch has no targets, or a layer cannot be mixed.
    """

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        *,
        alpha: Any = 2.0,
        p: float = 1.0,
        per_sample: bool = False,
        pairs: Any = "any",
        label: Any = None,
        blend: Any = _PLAIN,
        noise: Any = None,
        mask: str | None = None,
        with_target: str | int | Sequence[str | int] = (),
        check: bool = True,
        seed: int | None = None,
    ) -> None:
        self.layers, self.alpha, self.p, self.per_sample = layers, alpha, p, per_sample
        self.pairs, self.label, self.blend, self.noise = pairs, label, blend, noise
        self.mask, self.with_target, self.check, self.seed = mask, with_target, check, seed

    def initialize(self) -> "ManifoldMixupCallback":
        """Forget the plans of earlier fits, as the net forgets its weights."""
        self.mixup_: ManifoldMixup | None = None
        self.state_: dict[str, int] = {}
        self._plain: Any = None
        return self

    def on_train_begin(self, net: NeuralNet, **_: Any) -> None:
        """Clean up after a failed fit."""
        self._detach(net)

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **_: Any
    ) -> None:
        """Attach before the first training batch, and give the targets to plans that need them."""
        if training and self._plain is None:
            self._attach(net, batch)
        if training and self.mixup_ is not None and self.mixup_.needs_targets:
            self.mixup_.batch(to_tensor(unpack_data(batch)[1], device="cpu"))

    def on_batch_end(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        """Save the state of the stream, for copies of the net."""
        if training and self.mixup_ is not None:
            self.state_ = self.mixup_.state_dict()

    def on_train_end(self, net: NeuralNet, **_: Any) -> None:
        """Detach."""
        self._detach(net)

    def _attach(self, net: NeuralNet, batch: Any) -> None:
        inputs, targets = unpack_data(batch)
        if targets is None:
            raise ValueError("the batch has no targets to mix: pass y to fit.")
        example = to_tensor(inputs, device=net.device)
        self.mixup_ = ManifoldMixup(
            net.module_,
            self.layers,
            example=example if isinstance(example, dict | tuple) else (example,),
            alpha=self.alpha,
            p=self.p,
            per_sample=self.per_sample,
            pairs=self.pairs,
            label=self.label,
            blend=self.blend,
            noise=self.noise,
            mask=self.mask,
            check=self.check,
            seed=self.seed,
        )
        if self.state_:
            self.mixup_.load_state_dict(self.state_)
        # A copy keeps the class of the criterion, which skorch checks for NLLLoss.
        self._plain, mixed = net.criterion_, copy.copy(net.criterion_)
        mixed.forward = self.mixup_.wrap(self._plain, with_target=self.with_target).forward
        net.criterion_ = mixed
        self._warn_of_weights(net)

    def _warn_of_weights(self, net: NeuralNet) -> None:
        """Warn of a ``get_loss`` that weights examples after their losses have been mixed."""
        own = not type(net).get_loss.__module__.startswith("skorch.")
        if own and getattr(net.criterion_, "reduction", None) == "none":
            name = type(net).__name__
            warnings.warn(
                f"{name}.get_loss is given a mixed loss for each example. Weights of the examples "
                f"that it multiplies to them would be the example's own for the partner's target, "
                f"too. Let the criterion reduce its losses, and pass it the weights: "
                f"self.criterion_(y_pred, y_true, weight), with "
                f"ManifoldMixupCallback(with_target='weight').",
                stacklevel=2,
            )

    def _detach(self, net: NeuralNet) -> None:
        if self._plain is not None:
            net.criterion_, self._plain = self._plain, None
        if self.mixup_ is not None:
            self.mixup_.remove()
