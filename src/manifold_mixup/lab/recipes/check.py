"""Whether the settings of a recipe are in range and agree with each other."""

import math

from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.recipes.ways import USUAL, WAYS, Way
from manifold_mixup.lab.suggest import closest

_COMMON_METHODS = ("no mixup", "input mixup", "manifold mixup")
"""The methods whose misspelt names are recognised."""


def check_recipe(run: Recipe) -> None:
    """Raise a `ValueError` if a number of a recipe is out of range, or settings disagree."""
    least = {
        "epochs": 1,
        "batch": 1,
        "accumulate": 1,
        "crop": 0,
        "cutout": 0,
        "weight_decay": 0,
        "every": 0,
    }
    for name in ("width", "examples", "per_class"):
        least |= {name: 1} if getattr(run, name) is not None else {}
    for name, bound in least.items():
        value = getattr(run, name)
        if not (value >= bound and math.isfinite(value)):
            raise ValueError(f"{name} is {value}. Expected {bound} or more.")
    if not 1 <= run.imbalance < math.inf:
        raise ValueError(f"imbalance is {run.imbalance}. Expected a finite number, 1 or more.")
    _check_regression(run)
    _check_attack(run)
    _require_positive(run, "lr")
    _check_way(run)
    _check_method(run)
    for name in ("label_smoothing", "label_noise", "ema", "dropout", "validation"):
        value = getattr(run, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}. Expected 0 or more, and less than 1.")
    _check_execution(run)


def _check_regression(run: Recipe) -> None:
    for name in ("label_smoothing", "label_noise", "pgd_steps"):
        if run.regression and getattr(run, name):
            raise ValueError(
                f"{name} is {getattr(run, name):g}, but the loss is mse, which has no labels. "
                f"Leave it at 0."
            )


def _check_attack(run: Recipe) -> None:
    if run.pgd_steps < 0:
        raise ValueError(f"pgd_steps is {run.pgd_steps}. Expected 0 or more.")
    if run.pgd_eps is None:
        return
    if not run.pgd_steps:
        raise ValueError(
            f"pgd_eps is {run.pgd_eps:g}, but no batch is attacked. Set pgd_steps too, to 7 for "
            f"example (--pgd-steps 7)."
        )
    _require_positive(run, "pgd_eps")


def _require_positive(run: Recipe, *names: str) -> None:
    for name in names:
        value = getattr(run, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}. Expected a finite number above 0.")


def _check_way(run: Recipe) -> None:
    """Raise a `ValueError` if the settings of the mixing are out of range or disagree."""
    if not run.layers:
        _require_nothing_mixed(run)
        return
    _require_positive(run, "alpha", "bandwidth", "tau_max", "tau_std")
    finite = math.inf
    ranges = {
        "p": (0 < run.p <= 1, "more than 0, and at most 1"),
        "share": (0 < run.share <= 1, "more than 0, and at most 1"),
        "kappa": (1 < run.kappa < finite, "a finite number above 1"),
        "tau": (0 <= run.tau <= 1, "a number from 0 to 1"),
        "block": (run.block > 0 and run.block % 2 == 1, "an odd number, such as 7"),
        "noise_add": (0 <= run.noise_add < finite, "a finite number, 0 or more"),
        "noise_multiply": (0 <= run.noise_multiply < finite, "a finite number, 0 or more"),
    }
    for name, (fits, expected) in ranges.items():
        if not fits:
            raise ValueError(f"{name} is {getattr(run, name)}. Expected {expected}.")
    _check_doubled(run)
    _check_ict(run)


def _require_nothing_mixed(run: Recipe) -> None:
    for name, usual in USUAL.items():
        value = getattr(run, name)
        if value != usual:
            raise ValueError(
                f"{name} is {value!r}, but no layer is mixed. Name the layers (--layers), or "
                f"choose what is mixed with --mixing."
            )


def _check_doubled(run: Recipe) -> None:
    """Raise a `ValueError` if a pass over a doubled batch cannot be what is asked."""
    kind = "clean" if run.clean else "pairs" if run.pairs == "near" else ""
    if not kind:
        return
    usual = {**USUAL, "p": 1.0, "per_sample": False, "block_gradient": False}
    for name, value in usual.items():
        if name != kind and getattr(run, name) != value:
            raise ValueError(
                f"{kind} is {getattr(run, kind)!r}, which doubles the batch and mixes by plain "
                f"interpolation, one λ for each batch, but {name} is {getattr(run, name)!r}. "
                f"Leave one of the two out."
            )


def _check_ict(run: Recipe) -> None:
    if not 0 <= run.ict_weight < math.inf:
        raise ValueError(f"ict_weight is {run.ict_weight}. Expected a finite number, 0 or more.")
    if not run.ict_weight:
        return
    if not 0 < run.ict_ramp <= 1:
        raise ValueError(f"ict_ramp is {run.ict_ramp}. Expected more than 0, and at most 1.")
    if not run.ema:
        raise ValueError(
            "ict_weight is set, whose teacher is the average of the weights, but ema is 0. Set it, "
            "to 0.999 for example (--ema 0.999)."
        )
    for name, usual in {"pgd_steps": 0, "pairs": "any", "label": "lam"}.items():
        if getattr(run, name) != usual:
            raise ValueError(
                f"ict_weight is {run.ict_weight:g}, which mixes examples without labels, but "
                f"{name} is {getattr(run, name)!r}. Leave one of the two out."
            )
    if run.regression:
        raise ValueError("ict_weight is set, which compares probabilities, but the loss is mse.")


def _check_method(run: Recipe) -> None:
    """Raise a `ValueError` if the method's name contradicts what is mixed."""
    says = run.method.lower()
    titles = {way.method.lower(): way.method for way in WAYS.values()}
    named = max((title for title in titles if says.startswith(title)), key=len, default="")
    if not named:
        _require_no_typing_error(run.method)
        return
    actual = way_of(run)
    if actual != titles[named]:
        layers = f"layers {' '.join(run.layers) or '(none)'}"
        settings = [
            f"{n} {getattr(run, n)}" for n, usual in USUAL.items() if getattr(run, n) != usual
        ]
        raise ValueError(
            f"method is {run.method!r}, but with {', '.join([layers, *settings])} it is "
            f"{actual or 'another way of mixing'}. Choose with --mixing {', '.join(WAYS)}, or give "
            f"another --method."
        )


def _require_no_typing_error(method: str) -> None:
    says = method.lower()
    near = [WAYS[says].method] if says in WAYS else closest(says, _COMMON_METHODS, cutoff=0.7)
    if near:
        raise ValueError(
            f"method is {method!r}, but it is only the name in tables. Did you mean "
            f"{near[0]!r}? Choose what is mixed with --mixing {', '.join(WAYS)}."
        )


def way_of(run: Recipe) -> str:
    """Return the method of the way in which a run mixes, or "" if it has no name."""
    if not run.layers:
        return WAYS["none"].method
    ways = [way for way in WAYS.values() if way.at != "nowhere" and _has_settings_of(way, run)]
    at_input = run.layers == ("input",)
    at_same_depth = [way for way in ways if (way.at == "input") == at_input]
    return next((way.method for way in (*at_same_depth, *ways)), "")


def _has_settings_of(way: Way, run: Recipe) -> bool:
    """Return whether a run has a way's settings; the size of its noise may differ."""
    required = {**USUAL, **way.makes}
    return all(
        bool(getattr(run, name)) == bool(value)
        if isinstance(value, float)
        else getattr(run, name) == value
        for name, value in required.items()
    )


def _check_execution(run: Recipe) -> None:
    if run.batch < run.accumulate:
        raise ValueError(
            f"a batch of {run.batch} cannot be split into {run.accumulate} parts. Expected "
            f"accumulate to be at most the batch size."
        )
    if run.cuda_graphs and not run.compile:
        raise ValueError("cuda_graphs needs a compiled model: set compile too (--compile).")
    if run.cuda_graphs and not run.device.startswith("cuda"):
        raise ValueError(f"cuda_graphs needs a GPU, but the device is {run.device!r}.")
