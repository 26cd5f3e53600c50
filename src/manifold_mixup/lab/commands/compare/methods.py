"""The recipes of the methods that are compared, by name or from a search."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import models
from manifold_mixup.lab.commands.compare.options import Options, method_names, model_name
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import features
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.paper import figures
from manifold_mixup.lab.recipes import catalog, generated
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.search.tuned import Tuned, tuned


def chosen_recipes(options: Options) -> list[Recipe]:
    """Return the recipe of each method, no mixup first.

    Raises:
        ValueError: there is no such method, or no method at all.
    """
    data = datasets.short_name(options.data)
    names = method_names(options) or [*catalog.MIXING][:3]
    std = datasets.target_std(options.data)
    model = model_name(options)
    return [catalog.recipe("compare", name, data, model, target_std=std) for name in names]


def finished_search(options: Options, path: Path) -> Tuned:
    """Return what a search chose, if it was about the same data and model.

    Raises:
        ValueError: it was not, or a setting is given that the search chose.
    """
    fixed = ("lr", "weight_decay", "alpha", "layers", "bandwidth", "optimizer")
    if extra := [name for name in fixed if getattr(options, name) is not None]:
        raise ValueError(
            f"--{extra[0].replace('_', '-')} was given, but --tuned chooses it. Leave out one."
        )
    search = tuned(path, method_names(options))
    data, model = datasets.short_name(options.data), model_name(options)
    if (data, model) != (search.data, search.model):
        raise ValueError(
            f"{path} is a search with {search.model} on {search.data}, but --data is {data} and "
            f"--model is {model}. Give --data {search.data} --model {search.model}, or another "
            f"study."
        )
    return search


def with_options(run: Recipe, options: Options, data: Data, device: torch.device) -> Recipe:
    """Replace settings of a recipe by the options that were given."""
    examples = options.examples or run.examples
    if options.examples is None and examples is not None:
        examples = min(examples, len(data.x))
    if options.smoke:
        examples = min(examples or len(data.x), len(data.x), 500)
    mixes_hidden = bool(run.layers) and run.layers != ("input",)
    layers = options.layers if mixes_hidden else None
    near = run.pairs in ("near", "near_in_batch")
    return replace(
        run,
        epochs=2 if options.smoke else options.epochs or run.epochs,
        examples=examples,
        imbalance=run.imbalance if options.imbalance is None else options.imbalance,
        label_noise=run.label_noise if options.label_noise is None else options.label_noise,
        alpha=run.alpha if options.alpha is None or not run.layers else options.alpha,
        layers=run.layers if layers is None else layers,
        bandwidth=options.bandwidth if options.bandwidth and near else run.bandwidth,
        optimizer=options.optimizer or run.optimizer,
        lr=options.lr or run.lr,
        weight_decay=run.weight_decay if options.weight_decay is None else options.weight_decay,
        batch_norm=run.batch_norm if options.batch_norm is None else options.batch_norm,
        device=str(device),
    )


def hidden_layers(methods: Sequence[Recipe], data: Data) -> tuple[str, ...]:
    """Return the hidden layers of S, whose flatness is measured for all methods alike.

    They are those that the methods mix, or those that manifold mixup would mix.
    """
    if data.regression:
        return ()
    model = fresh_model(replace(methods[0], compile=False), data)
    mixed = dict.fromkeys(layer for run in methods for layer in run.layers if layer != "input")
    layers = mixed or models.eligible(methods[0].model, model, data.x)
    return tuple(layer for layer in layers if layer != "input" and _has_states(model, layer, data))


def _has_states(model: nn.Module, layer: str, data: Data) -> bool:
    """Return whether a layer gives one tensor in a pass, so that its states can be measured."""
    try:
        features(model, data.x[:2], layer=layer)
    except (RuntimeError, TypeError):
        return False
    return True


def spiral_runs(options: Options, data: Data, device: torch.device) -> tuple[Recipe, ...]:
    """Return the runs of the paper's Figure 1 with the first seed, if they are to be drawn."""
    if (
        not options.spirals
        or data.regression
        or generated.source(options.data) in generated.SPIRALS
    ):
        return ()
    return tuple(
        replace(
            row.run,
            method=f"spirals, {row.run.method}",
            epochs=2 if options.smoke else row.run.epochs,
            device=str(device),
        )
        for row in figures.figure_1().rows
        if row.run is not None
    )
