"""The mixing of a run: what it adds to a plain training step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import ManifoldMixup, MixPlan, sample_plan
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training import losses
from manifold_mixup.lab.training.mixing import attach, check_way, class_counts, needs_targets


class Method:
    """The loss of a run, and its mixing.

    Args:
        model: the model that training calls, including its wrapper.
        run: the recipe.
        counts: number of training examples of each class, for Remix.
        example: inputs to check the layers with now; without them, the first batch does it.

    Raises:
        ValueError: a layer is unknown or cannot be mixed, or a number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Recipe,
        *,
        counts: Sequence[int] = (),
        example: Tensor | None = None,
    ) -> None:
        self.run = run
        self.criterion = losses.build(run.loss, label_smoothing=run.label_smoothing)
        self.mixup: ManifoldMixup | None = None
        if run.layers:
            self.mixup = attach(run, model, counts=counts, example=example)
            self.criterion = self.mixup.wrap(self.criterion)
            if run.block_gradient:
                _block_gradient(model, self.mixup)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch, mixed as the recipe says.

        Args:
            model: the model that training calls.
            x: inputs.
            y: targets.
        """
        if self.mixup is not None and self.run.clean:
            return self._beside_clean(self.mixup, model, x, y)
        if self.mixup is not None and needs_targets(self.run):
            self.mixup.batch(y)
        loss: Tensor = self.criterion(model(x), y)
        return loss

    def _beside_clean(self, mixup: ManifoldMixup, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of the clean and of the mixed batch, in one pass (RegMixup)."""
        # A step seeds the global generator, so that the plan depends on seed, rank and step only.
        half = sample_plan(
            len(x),
            layers=mixup.layers,
            alpha=self.run.alpha,
            generator=torch.default_generator,
        )
        with mixup.using(beside_clean(half).to(x.device)):
            output = model(torch.cat([x, x]))
        loss: Tensor = self.criterion(output, torch.cat([y, y]))
        return loss

    def state_dict(self) -> dict[str, int]:
        """Return the position of the mixing in its stream of plans."""
        return {} if self.mixup is None else self.mixup.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the position that `state_dict` returned."""
        if self.mixup is not None:
            self.mixup.load_state_dict(state)


def check(run: Recipe, data: Data) -> None:
    """Build the model and method of a recipe, so that errors are raised before training.

    Raises:
        ValueError: a name is unknown, a number is out of range, or a layer cannot be mixed.
    """
    check_way(run, data)
    Method(fresh_model(run, data), run, counts=class_counts(data))


def beside_clean(plan: MixPlan) -> MixPlan:
    """Return the plan of a doubled batch whose first half stays as it is."""
    count = plan.batch
    lam = torch.cat([torch.ones(count), plan.lam.expand(count)])
    perm = torch.cat([torch.arange(count), count + plan.perm])
    return MixPlan(plan.layer, lam, perm)


def _block_gradient(model: nn.Module, mixup: ManifoldMixup) -> None:
    """Stop the gradient at the mixed layer (paper, section 5.1).

    These hooks run after the mixing hooks, so they detach the mixed state.
    """
    modules = dict(model.named_modules())
    for name in mixup.layers:
        if name in modules:
            modules[name].register_forward_hook(_Block(mixup, name))


class _Block:
    def __init__(self, mixup: ManifoldMixup, layer: str) -> None:
        self.mixup = mixup
        self.layer = layer

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        plan = self.mixup.plan
        here = module.training and plan is not None and plan.layer == self.layer
        return output.detach() if here else output
