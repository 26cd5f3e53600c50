"""Adversarial training: each batch is attacked by PGD before the step (Madry et al., 2018)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import Attack, perturb
from manifold_mixup.lab.evaluate.attacks import pgd
from manifold_mixup.lab.recipes.recipe import Recipe


def attack_of(run: Recipe, data: Data) -> Attack | None:
    """Return the attack of a recipe's training, or None if it trains on clean examples.

    Its steps are ε/4: with 7 steps and ε = 8/255, those of 2/255 in Madry et al.
    """
    if not run.pgd_steps:
        return None
    return pgd(data.eps if run.pgd_eps is None else run.pgd_eps, steps=run.pgd_steps)


def attacked(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, *, bounds: tuple[float, float] | None
) -> Tensor:
    """Return a training batch under attack, without a trace of it in the model.

    The model is attacked as it trains, with the statistics of the batch in batch norms. The random
    start is drawn from the global generator, which a step seeds.

    Args:
        model: the model, in train mode and not mixing.
        x: inputs.
        y: labels.
        attack: the attack.
        bounds: the minimal and maximal value of the data.
    """
    with buffers_as_before(model):
        perturbed = perturb(model, x, y, attack, bounds=bounds, generator=torch.default_generator)
    return perturbed.detach()


@contextmanager
def buffers_as_before(model: nn.Module) -> Iterator[None]:
    """Restore the running statistics, which every pass in train mode moves."""
    before = {name: value.clone() for name, value in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(before[name])
