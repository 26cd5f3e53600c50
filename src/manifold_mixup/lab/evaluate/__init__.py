"""Evaluation of trained models: `scores` for every run, `evaluate` for the paper's batteries.

Given any model that returns logits and a `Data`, it computes numbers, and never changes the model.
It does not depend on runs and recipes.

Imported by: candidates, commands, paper, playground, report, runs, search, training.
Imports: data.
"""

from manifold_mixup.lab.evaluate.attacks import Attack, fgsm, perturb
from manifold_mixup.lab.evaluate.autoattack import Budget
from manifold_mixup.lab.evaluate.battery.parts import (
    BUDGETED,
    OF_LOGITS,
    PARTS,
    battery_of,
    unfit,
)
from manifold_mixup.lab.evaluate.battery.run import evaluate
from manifold_mixup.lab.evaluate.battery.settings import Settings
from manifold_mixup.lab.evaluate.battery.states import FEATURES
from manifold_mixup.lab.evaluate.battery.units import UNITS
from manifold_mixup.lab.evaluate.corruptions import CORRUPTIONS, Corruption, corrupt
from manifold_mixup.lab.evaluate.deform import DEFORMATIONS, Deformation, deform
from manifold_mixup.lab.evaluate.inference import logits
from manifold_mixup.lab.evaluate.interpolation import interpolated_nll
from manifold_mixup.lab.evaluate.metrics import (
    Reliability,
    brier,
    error,
    mse,
    nll,
    r2,
    reliability,
    rmse,
    top_error,
)
from manifold_mixup.lab.evaluate.neighbours import features, knn_error
from manifold_mixup.lab.evaluate.outliers import Separation, separation
from manifold_mixup.lab.evaluate.scores import (
    Scores,
    number_scores,
    number_scores_and_outputs,
    scores,
    scores_and_outputs,
)

__all__ = [
    "BUDGETED",
    "CORRUPTIONS",
    "DEFORMATIONS",
    "FEATURES",
    "OF_LOGITS",
    "PARTS",
    "UNITS",
    "Attack",
    "Budget",
    "Corruption",
    "Deformation",
    "Reliability",
    "Scores",
    "Separation",
    "Settings",
    "battery_of",
    "brier",
    "corrupt",
    "deform",
    "error",
    "evaluate",
    "features",
    "fgsm",
    "interpolated_nll",
    "knn_error",
    "logits",
    "mse",
    "nll",
    "number_scores",
    "number_scores_and_outputs",
    "perturb",
    "r2",
    "reliability",
    "rmse",
    "scores",
    "scores_and_outputs",
    "separation",
    "top_error",
    "unfit",
]
