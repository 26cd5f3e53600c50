"""What a method adds to a plain training: mixing, and where its gradient stops."""

from typing import Any

from torch import Tensor, nn

from manifold_mixup import ManifoldMixup
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training import losses


class Method:
    """The loss of a run, and the mixing that belongs to it.

    Args:
        model: what is called in training, with whatever wraps it.
        run: the recipe.
        example: some inputs, to have the layers checked now; else the first batch is.

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
        """Return where in its stream of plans the mixing is."""
        return {} if self.mixup is None else self.mixup.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        if self.mixup is not None:
            self.mixup.load_state_dict(state)


def check(run: Recipe, data: Data) -> None:
    """Build what a recipe names, so that what it cannot be trained with raises now.

    Raises:
        ValueError: a name is unknown, a number out of range, or a layer cannot be mixed.
    """
    Method(fresh_model(run, data), run)


def _block_gradient(model: nn.Module, mixup: ManifoldMixup) -> None:
    """Let nothing before the layer that is mixed learn from the mixed batch (paper, section 5.1).

    The hooks come after those that mix, so what they cut off is the mixed state.
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
