"""`Scores`: the numbers that every trained model gets."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manifold_mixup.lab.evaluate.attacks import attack_all, one_step
from manifold_mixup.lab.evaluate.equal_nan import EqualNaN
from manifold_mixup.lab.evaluate.inference import (
    CHUNK,
    device_of,
    in_eval_mode,
    inputs,
    logits,
)
from manifold_mixup.lab.evaluate.metrics import (
    Reliability,
    brier,
    error,
    nll,
    r2,
    reliability,
    rmse,
    top_error,
)


@dataclass(frozen=True, eq=False)
class Scores(EqualNaN):
    """The scores of a model on a test set; shares are in percent, likelihoods in nats.

    ``top5_error``, ``brier`` and ``fgsm_unmoved`` are ``nan`` if they were not computed. The last
    is the share of the examples that are predicted right which FGSM does not move, because their
    gradient is zero or points out of the bounds. A model of numbers has only ``rmse``, in the units
    of the targets, and ``r2``; a classifier has not.
    """

    error: float
    nll: float
    ece: float
    fgsm_accuracy: float
    reliability: Reliability
    top5_error: float = math.nan
    brier: float = math.nan
    rmse: float = math.nan
    r2: float = math.nan
    fgsm_unmoved: float = math.nan


def scores(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    bounds: tuple[float, float] | None = None,
) -> Scores:
    """Return the scores of a model in eval mode; see `fgsm` for ``eps`` and ``bounds``."""
    return scores_and_outputs(model, x, y, eps=eps, bounds=bounds)[0]


def scores_and_outputs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    bounds: tuple[float, float] | None = None,
) -> tuple[Scores, Tensor]:
    """Return the scores of `scores`, and the logits that they are of, from the same pass."""
    with in_eval_mode(model):
        y = y.to(device_of(model, x))
        clean = logits(model, x)
        if eps == 0:  # an attack of that size changes nothing, and tokens have no gradient
            return _scores(clean, y, fgsm_accuracy=100 - error(clean, y)), clean
        attacked = attack_all(model, x, y, one_step(eps), bounds=bounds)
        return _scores(
            clean,
            y,
            fgsm_accuracy=100 - error(logits(model, attacked), y),
            fgsm_unmoved=_unmoved(x, attacked, clean.argmax(1) == y),
        ), clean


def _unmoved(x: Tensor, attacked: Tensor, right: Tensor) -> float:
    """Return the share in percent of the examples predicted right that an attack left as is."""
    same = [
        (part == moved).flatten(1).all(1)
        for part, moved in zip(
            inputs(x, device=attacked.device), attacked.split(CHUNK), strict=True
        )
    ]
    count = int(right.sum())
    return 100 * int((torch.cat(same) & right).sum()) / count if count else math.nan


def number_scores(model: nn.Module, x: Tensor, y: Tensor) -> Scores:
    """Return the scores of a model of numbers in eval mode."""
    return number_scores_and_outputs(model, x, y)[0]


def number_scores_and_outputs(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Scores, Tensor]:
    """Return the scores of `number_scores`, and the outputs that they are of."""
    with in_eval_mode(model):
        outputs, y = logits(model, x), y.to(device_of(model, x))
    scored = Scores(
        error=math.nan,
        nll=math.nan,
        ece=math.nan,
        fgsm_accuracy=math.nan,
        reliability=Reliability((), (), ()),
        rmse=rmse(outputs, y),
        r2=r2(outputs, y),
    )
    return scored, outputs


def _scores(
    clean: Tensor, y: Tensor, *, fgsm_accuracy: float, fgsm_unmoved: float = math.nan
) -> Scores:
    bins = reliability(clean, y)
    return Scores(
        error=error(clean, y),
        nll=nll(clean, y),
        ece=bins.ece,
        fgsm_accuracy=fgsm_accuracy,
        fgsm_unmoved=fgsm_unmoved,
        reliability=bins,
        top5_error=top_error(clean, y, k=5),
        brier=brier(clean, y),
    )
