"""The mixing of a recipe, as a `ManifoldMixup` on its model."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from manifold_mixup import (
    Align,
    Cut,
    Interpolate,
    ManifoldMixup,
    Near,
    Noise,
    OneOf,
    PatchUp,
    Remix,
    SimilarityKernel,
)
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models import has_positions
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.recipes.ways import CUTTING
from manifold_mixup.lab.suggest import unknown


def attach(
    run: Recipe,
    model: nn.Module,
    *,
    counts: Sequence[int] = (),
    example: Tensor | None = None,
    mask: str | None = None,
) -> ManifoldMixup:
    """Attach what a recipe mixes to a model.

    Args:
        run: the recipe, which mixes at some layer.
        model: the model.
        counts: number of training examples of each class, for Remix.
        example: inputs to check the layers with now; without them, the first batch does it.
        mask: the name of the model's padding mask, for tokens.

    Raises:
        ValueError: a layer is unknown or cannot be mixed, or a number is out of range.
    """
    options = _noise(run) if mask is None else {"mask": mask, **_noise(run)}
    if run.blend != "interpolate":
        options["blend"] = _blend(run)
    return ManifoldMixup(
        model,
        run.layers,
        example=example,
        alpha=run.alpha,
        p=run.p,
        per_sample=run.per_sample,
        pairs=_pairs(run),
        label=Remix(counts, run.kappa, run.tau) if run.label == "remix" else None,
        seed=run.seed,
        **options,
    )


def plan_options(run: Recipe) -> list[dict[str, Any]]:
    """Return options of `sample_plan` for every kind of plan that a recipe draws."""
    if run.blend == "interpolate":
        return [_noise(run)]
    if run.blend == "mix-or-cut":
        return [_noise(run), {"blend": Cut(alpha=1.0), **_noise(run)}]
    return [{"blend": _blend(run), **_noise(run)}]


def _noise(run: Recipe) -> dict[str, Any]:
    if not (run.noise_add or run.noise_multiply):
        return {}
    noise = Noise(add=run.noise_add, multiply=run.noise_multiply)
    return {"noise": noise}


def needs_targets(run: Recipe) -> bool:
    """Return whether the library draws partners or labels by the targets."""
    return run.pairs not in ("any", "near") or run.label != "lam"


def _pairs(run: Recipe) -> Any:
    if run.pairs == "near_in_batch":
        return Near(run.bandwidth)
    return "any" if run.pairs == "near" else run.pairs  # `NearPartners` draws from all examples


def class_counts(data: Data) -> tuple[int, ...]:
    """Return the number of training examples of each class; empty without classes."""
    if data.y.is_floating_point() or data.classes == 0:
        return ()
    return tuple(data.y.bincount(minlength=data.classes).tolist())


def check_way(run: Recipe, data: Data) -> None:
    """Raise a `ValueError` if the data or the model do not suit a recipe's loss or its mixing."""
    _check_loss(run, data)
    if data.tokens:
        _check_tokens(run, data)
    if run.pgd_steps and run.pgd_eps is None and not data.eps > 0:
        raise ValueError(
            f"adversarial training needs the size of its attack, but {data.name} has none of its "
            f"own. Set pgd_eps (--pgd-eps)."
        )
    if run.layers:
        _check_mixing(run, data)


def _check_mixing(run: Recipe, data: Data) -> None:
    """Raise a `ValueError` if the data or the model have not what a way of mixing needs."""
    if run.ict_weight and (data.unlabelled is None or not len(data.unlabelled)):
        raise ValueError(
            f"{run.method} learns from examples without labels, but all {len(data.x):,} of "
            f"{data.name} have one. Take the labels of a part only (--examples 250, or to train "
            f"--per-class 25)."
        )
    if run.pairs in ("near", "near_in_batch") and not data.regression:
        raise ValueError(
            f"{run.method} draws partners that are near in the target, but {data.name} has "
            f"classes. Use --mixing same-class or other-class, or a data set with numbers as "
            f"targets."
        )
    if (run.pairs in ("same_class", "other_class") or run.label == "remix") and (
        data.y.is_floating_point()
    ):
        kind = "numbers as targets" if data.regression else "soft labels"
        way_out = "c-mixup or manifold" if data.regression else "manifold"
        raise ValueError(
            f"{run.method} needs classes, but {data.name} has {kind}. Use --mixing {way_out}."
        )
    if run.blend in CUTTING and not has_positions(run.model):
        raise ValueError(
            f"{run.method} cuts positions, such as pixels, but the states of {run.model} have "
            f"none. Use a network that has them (--model cnn, for images and signals), or another "
            f"way of mixing."
        )


def _check_tokens(run: Recipe, data: Data) -> None:
    """Raise a `ValueError` if a recipe does to tokens what only images and vectors allow."""
    conflicts = {
        "input is mixed": "input" in run.layers,
        f"blend is {run.blend!r}": run.blend in CUTTING,
        f"pairs is {run.pairs!r}": run.pairs == "near",
        "ict_weight is set": bool(run.ict_weight),
        "pgd_steps is set": bool(run.pgd_steps),
        "compile is set": run.compile,
    }
    if present := [words for words, wrong in conflicts.items() if wrong]:
        raise ValueError(
            f"{present[0]}, but the inputs of {data.name} are ids of tokens, for which that is not "
            f"there. Mix hidden states, such as the embeddings, by interpolation."
        )


def _check_loss(run: Recipe, data: Data) -> None:
    if data.regression and not run.regression:
        raise ValueError(
            f"the loss {run.loss} needs classes, but {data.name} has numbers as targets. Use mse "
            f"(--loss mse)."
        )
    if run.regression and not data.regression:
        raise ValueError(
            f"the loss mse needs numbers as targets, but {data.name} has classes. Use "
            f"cross_entropy (--loss cross_entropy)."
        )


_BLENDS: dict[str, Callable[[Recipe], Any]] = {
    "cut": lambda run: Cut(alpha=run.alpha),
    "mix-or-cut": lambda run: OneOf((Interpolate(), 0.5), (Cut(alpha=1.0), 0.5)),
    "patchup-soft": lambda run: _patchup(run, soft=True),
    "patchup-hard": lambda run: _patchup(run, soft=False),
    "similarity": lambda run: SimilarityKernel(tau_max=run.tau_max, tau_std=run.tau_std),
    "align": lambda run: _at_input(run, Interpolate(), Align(alpha=run.alpha)),
}


def _blend(run: Recipe) -> Any:
    if run.blend not in _BLENDS:
        raise ValueError(f"{unknown('blend', run.blend, ('interpolate', *_BLENDS))}.")
    return _BLENDS[run.blend](run)


def _patchup(run: Recipe, *, soft: bool) -> Any:
    patches = PatchUp(block=run.block, share=run.share, soft=soft, alpha=run.alpha)
    return _at_input(run, Cut(alpha=run.alpha), patches)


def _at_input(run: Recipe, at_input: Any, elsewhere: Any) -> Any:
    """Return one way for the input, if it is mixed, and one for hidden layers."""
    return {"input": at_input, "*": elsewhere} if "input" in run.layers else elsewhere
