"""The mixing of a run: what it adds to a plain training step."""

from typing import Any

from torch import Tensor, nn

from manifold_mixup import ManifoldMixup
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training import losses


class Method:
    """The loss of a run, and its mixing.

    Args:
        model: the model that training calls, including its wrapper.
        run: the recipe.
        example: inputs to check the layers with now; without them, the first batch does it.

    Raises:
        ValueError: a layer is unknown or cannot be mixed, or a number is out of range.
    """

    def __init__(self, model: nn.Module, run: Recipe, *, example: Tensor | None = None) -> None:
        self.criterion = losses.build(run.loss, label_smoothing=run.label_smoothing)
        self.mixup: ManifoldMixup | None = None
        if run.layers:
            self.mixup = ManifoldMixup(
                model,
                run.layers,
                example=example,
                alpha=run.alpha,
                per_sample=run.per_sample,
                seed=run.seed,
            )
            self.criterion = self.mixup.wrap(self.criterion)
            if run.block_gradient:
                _block_gradient(model, self.mixup)

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
    Method(fresh_model(run, data), run)


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
