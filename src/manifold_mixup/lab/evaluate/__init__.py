"""What a trained model is worth: `scores` and the metrics behind it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manifold_mixup.lab.data import as_input
from manifold_mixup.lab.evaluate.attacks import fgsm
from manifold_mixup.lab.evaluate.metrics import Reliability, error, nll, reliability

__all__ = ["Reliability", "Scores", "error", "fgsm", "logits", "nll", "reliability", "scores"]


@dataclass(frozen=True)
class Scores:
    """One model on one test set; shares are in percent, likelihoods in nats."""

    error: float
    nll: float
    ece: float
    fgsm_accuracy: float
    reliability: Reliability


def scores(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    bounds: tuple[float, float] | None = None,
) -> Scores:
    """Score a model in eval mode; `fgsm` explains ``eps`` and ``bounds``."""
    model.eval()
    clean = logits(model, x)
    attacked = torch.cat(
        [
            fgsm(model, as_input(part), labels, eps=eps, bounds=bounds)
            for part, labels in zip(x.split(1000), y.split(1000), strict=True)
        ]
    )
    bins = reliability(clean, y)
    return Scores(
        error=error(clean, y),
        nll=nll(clean, y),
        ece=bins.ece,
        fgsm_accuracy=100 - error(logits(model, attacked), y),
        reliability=bins,
    )


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Run a model over many inputs, a thousand at a time."""
    return torch.cat([model(as_input(part)) for part in x.split(1000)])
