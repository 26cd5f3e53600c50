"""The model of a recipe, freshly initialised, and the layers that a recipe leaves to be found."""

from dataclasses import replace

import torch
from torch import nn

from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes.recipe import FOUND, Recipe

_GRAPHS = 256
"""How many the compiler may make of one model class: all runs of a process count together, and of
each run every layer with every size of batch."""


def fresh_model(run: Recipe, data: Data) -> nn.Module:
    """Build the model of a run, its initial weights drawn by the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = models.build(
            run.model,
            data,
            width=run.width,
            dropout=run.dropout,
            batch_norm=run.batch_norm,
            noise=run.noise,
        )
    if run.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if run.compile:
        # With shapes fixed, a graph does not depend on which batch size came first, and so neither
        # does a run on where it was stopped. Each layer has a graph for whole and partial batches.
        model.compile(dynamic=False, mode="reduce-overhead" if run.cuda_graphs else None)
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, _GRAPHS)
    return model


def with_layers(run: Recipe, data: Data) -> Recipe:
    """Name the layers of a recipe that leaves them to be found."""
    if run.layers != FOUND:
        return run
    return replace(run, layers=models.eligible(run.model, fresh_model(run, data), data.x))
