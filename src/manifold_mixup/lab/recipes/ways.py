"""Ways of mixing by name, each as the settings that make it, with its authors' defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Way:
    """A way of mixing.

    Attributes:
        method: its name in tables and reports.
        about: a line of description, with its source.
        at: where it mixes: nowhere, at the input, at the model's eligible layers, or at the input
            and the last map.
        alpha: its authors' α; ``None`` for that of manifold mixup in the same recipe.
        alphas: its authors' α for single data sets.
        makes: the settings that make it what it is. With others, a run has another method.
        defaults: its authors' values of further settings.
    """

    method: str
    about: str
    at: Literal["nowhere", "input", "layers", "last"]
    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    makes: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


USUAL = {
    "pairs": "any",
    "label": "lam",
    "blend": "interpolate",
    "noise_add": 0.0,
    "noise_multiply": 0.0,
    "clean": False,
    "ict_weight": 0.0,
}
"""The settings of plain interpolation. A way names those in which it differs."""

WAYS = {
    "none": Way("no mixup", "No mixup.", at="nowhere"),
    "input": Way(
        "input mixup",
        "Input mixup: examples are mixed before they enter the model (Zhang et al., 2018).",
        at="input",
    ),
    "manifold": Way(
        "manifold mixup",
        "Manifold mixup: hidden states are mixed, at a layer drawn for each batch "
        "(Verma et al., 2019).",
        at="layers",
    ),
    "same-class": Way(
        "same-class mixup",
        "Manifold mixup of examples of the same class.",
        at="layers",
        makes={"pairs": "same_class"},
    ),
    "other-class": Way(
        "other-class mixup",
        "Manifold mixup of examples of different classes.",
        at="layers",
        makes={"pairs": "other_class"},
    ),
    "remix": Way(
        "Remix",
        "Input mixup whose label goes to the rarer class, for long tails (Chou et al., 2020).",
        at="input",
        alpha=1.0,
        makes={"label": "remix"},
        defaults={"kappa": 3.0, "tau": 0.5},
    ),
    "c-mixup": Way(
        "C-Mixup",
        "Manifold mixup of examples with near targets, for regression (Yao et al., 2022).",
        at="layers",
        alpha=2.0,
        makes={"pairs": "near"},
    ),
    "regmixup": Way(
        "RegMixup",
        "Input mixup beside the unmixed batch, in one pass (Pinto et al., 2022).",
        at="input",
        alpha=10.0,
        alphas={"cifar-10": 20.0},
        makes={"clean": True},
    ),
    "cutmix": Way(
        "CutMix",
        "A box of the input comes from the partner (Yun et al., 2019).",
        at="input",
        alpha=1.0,
        makes={"blend": "cut"},
        defaults={"p": 0.5},
    ),
    "manifold-cutmix": Way(
        "manifold CutMix",
        "CutMix of hidden states, at a layer drawn for each batch.",
        at="layers",
        alpha=1.0,
        makes={"blend": "cut"},
    ),
    "mixup-cutmix": Way(
        "mixup or CutMix",
        "Input mixup or CutMix with an α of 1, drawn for each batch (Wightman, timm).",
        at="input",
        alpha=0.8,
        makes={"blend": "mix-or-cut"},
    ),
    "patchup-soft": Way(
        "soft PatchUp",
        "Blocks of hidden states are interpolated, the input is cut (Faramarzi et al., 2020).",
        at="layers",
        alpha=2.0,
        makes={"blend": "patchup-soft"},
        defaults={"block": 7, "share": 0.75},
    ),
    "patchup-hard": Way(
        "hard PatchUp",
        "Blocks of hidden states come from the partner, as does a box of the input "
        "(Faramarzi et al., 2020).",
        at="layers",
        alpha=2.0,
        makes={"blend": "patchup-hard"},
        defaults={"block": 7, "share": 0.5, "p": 0.7},
    ),
    "nfm": Way(
        "noisy feature mixup",
        "Manifold mixup with noise on the mixed state (Lim et al., 2022).",
        at="layers",
        alpha=1.0,
        makes={"noise_add": 0.4, "noise_multiply": 0.2},
    ),
    "sk-mixup": Way(
        "SK-Mixup",
        "Input mixup that mixes near examples more than distant ones (Bouniot et al., 2025).",
        at="input",
        alpha=1.0,
        makes={"blend": "similarity"},
        defaults={"tau_max": 1.0, "tau_std": 0.5},
    ),
    "alignmixup": Way(
        "AlignMixup",
        "Input mixup, or the last map after its positions were aligned, drawn for each batch "
        "(Venkataramanan et al., 2022).",
        at="last",
        alpha=2.0,
        makes={"blend": "align"},
    ),
    "ict": Way(
        "ICT",
        "Input mixup of unlabelled examples, with a mean teacher's guesses, for few labels "
        "(Verma et al., 2019).",
        at="input",
        alpha=1.0,
        makes={"ict_weight": 100.0},
        defaults={"ict_ramp": 0.25, "ema": 0.999},
    ),
}
"""Every way of mixing by its name on the command line."""

CUTTING = ("cut", "mix-or-cut", "patchup-soft", "patchup-hard", "align")
"""The blends that need positions, such as pixels."""
