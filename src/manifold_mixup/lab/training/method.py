"""The mixing of a run: what it adds to a plain training step."""

from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import ManifoldMixup, MixPlan, mix, sample_plan
from manifold_mixup.lab.data import Data, arguments, as_input
from manifold_mixup.lab.data.label_noise import require_classes
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.recipes.ways import CUTTING
from manifold_mixup.lab.training import losses
from manifold_mixup.lab.training.mixing import attach, check_way, class_counts, needs_targets
from manifold_mixup.lab.training.partners import NearPartners, beside_partners


class Method:
    """The loss of a run, and its mixing.

    Args:
        model: the model that training calls, including its wrapper.
        run: the recipe.
        data: the training examples, if the loss or the mixing depends on them.
        example: inputs to check the layers with now; without them, the first batch does it.

    Raises:
        ValueError: a layer is unknown or cannot be mixed, or a number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Recipe,
        *,
        data: Data | None = None,
        example: Tensor | None = None,
    ) -> None:
        self.run = run
        self.data = data
        # The loss of a regression is in units of the variance, so that lr means the same for all.
        self.scale = 1.0
        if data is not None and data.regression:
            self.scale = 1 / data.y.double().var().item()
        self.partners: NearPartners | None = None
        if data is not None and run.layers and run.pairs == "near":
            self.partners = NearPartners(data.y, run.bandwidth)
        counts = () if data is None else class_counts(data)
        self.plain = losses.build(run.loss, label_smoothing=run.label_smoothing)
        self.criterion = self.plain
        self.mixup: ManifoldMixup | None = None
        if run.layers:
            mask = "mask" if data is not None and data.tokens else None
            self.mixup = attach(run, model, counts=counts, example=example, mask=mask)
            self.criterion = self.mixup.wrap(self.plain)
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
            loss = self._beside_clean(self.mixup, model, x, y)
        elif self.mixup is not None and self.run.pairs == "near":
            loss = self._with_partners(self.mixup, model, x, y)
        else:
            if self.mixup is not None and needs_targets(self.run):
                self.mixup.batch(y)
            loss = self.criterion(model(*arguments(x)), y)
        return loss * self.scale if self.scale != 1 else loss

    def _beside_clean(self, mixup: ManifoldMixup, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of the clean and of the mixed batch, in one pass (RegMixup)."""
        with mixup.using(beside_clean(self._draw(mixup, len(x))).to(x.device)):
            output = model(*arguments(torch.cat([x, x])))
        loss: Tensor = self.criterion(output, torch.cat([y, y]))
        return loss

    def _with_partners(
        self, mixup: ManifoldMixup, model: nn.Module, x: Tensor, y: Tensor
    ) -> Tensor:
        """Return the loss of a batch whose partners come from all training examples (C-Mixup)."""
        if self.partners is None or self.data is None:
            raise ValueError("pairs is 'near', which needs the training examples.")
        plan = beside_partners(self._draw(mixup, len(x))).to(x.device)
        rows = self.partners.draw(y, torch.default_generator)
        both = torch.cat([x, as_input(self.data.x.index_select(0, rows))])
        targets = mix(torch.cat([y, self.data.y.index_select(0, rows)]), plan)
        with mixup.using(plan):
            output = model(both)
        mixup.target(None, output)  # the targets are mixed here, as partners have no loss
        loss: Tensor = self.plain(output[: len(x)], targets[: len(x)])
        return loss

    def _draw(self, mixup: ManifoldMixup, count: int) -> MixPlan:
        """Draw a plan; a step seeds the global generator by seed, rank and step."""
        return sample_plan(
            count, layers=mixup.layers, alpha=self.run.alpha, generator=torch.default_generator
        )

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
    require_classes(data, run.label_noise)
    # What is cut depends on the positions of a layer, which only an example shows.
    example = as_input(data.x[:2]) if run.blend in CUTTING and run.layers else None
    Method(fresh_model(run, data), run, data=data, example=example)


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
