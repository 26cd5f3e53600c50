"""The optimizers and learning rate schedules of recipes."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from manifold_mixup.lab.recipes.recipe import Recipe


def build(model: nn.Module, run: Recipe) -> torch.optim.Optimizer:
    """Return the optimizer of a run."""
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
    }
    return kinds[run.optimizer](
        model.parameters(), lr=run.lr, weight_decay=run.weight_decay, fused=True
    )


def set_rate(optimizer: torch.optim.Optimizer, run: Recipe, *, progress: float) -> None:
    """Set the learning rate, given the ``progress`` of the training from 0 to 1."""
    kinds: dict[str, Callable[[float], float]] = {
        "one-cycle": _one_cycle,
        "cosine": _cosine,
        "constant": _constant,
        "steps": partial(_stairs, run),
    }
    rate = kinds[run.schedule](progress)
    for group in optimizer.param_groups:
        group["lr"] = run.lr * rate


def _one_cycle(progress: float) -> float:
    """Warm up linearly over the first tenth, then follow a cosine down to nearly 0."""
    warm = 0.1
    if progress < warm:
        return progress / warm
    return _cosine((progress - warm) / (1 - warm))


def _cosine(progress: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * progress)


def _constant(progress: float) -> float:
    del progress
    return 1.0


def _stairs(run: Recipe, progress: float) -> float:
    """Divide the rate by ten at the end of every epoch in ``run.milestones``."""
    return 0.1 ** sum(progress * run.epochs >= epoch - 1e-9 for epoch in run.milestones)
