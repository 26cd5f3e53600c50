"""The freshly initialised model of a recipe, and the layers of a recipe that names none."""

from dataclasses import replace

import torch
from torch import nn

from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes.recipe import FOUND, Recipe

_GRAPHS = 256
"""Limit of compiled graphs per model class. It counts all runs of a process, and every layer and
batch size of each run."""


def fresh_model(run: Recipe, data: Data) -> nn.Module:
    """Build the model of a run, with initial weights drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = models.build(
            run.model,
            data,
            width=run.width,
            dropout=run.dropout,
            batch_norm=run.batch_norm,
            noise=run.noise,
            weights=run.weights,
        )
    if run.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if run.compile:
        # With static shapes, a graph does not depend on which batch size came first, so the result
        # of a run does not depend on where it was stopped.
        model.compile(dynamic=False, mode="reduce-overhead" if run.cuda_graphs else None)
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, _GRAPHS)
    return model


def with_layers(run: Recipe, data: Data) -> Recipe:
    """Return the recipe with its layers, found by `find_layers` if it names none."""
    if run.layers != FOUND:
        return run
    return replace(run, layers=models.eligible(run.model, fresh_model(run, data), data.x))
