"""A comparison that is ready for training: checked options, with the data and runs they name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import models
from manifold_mixup.lab.commands.compare.comparison import Comparison
from manifold_mixup.lab.commands.compare.methods import (
    chosen_recipes,
    finished_search,
    hidden_layers,
    spiral_runs,
    with_options,
)
from manifold_mixup.lab.commands.compare.options import (
    Options,
    check_numbers,
    data_names,
    draws_anew,
    model_name,
)
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.models.fresh import with_layers
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.training.device import find_device
from manifold_mixup.lab.training.method import check


def prepare(options: Options) -> Comparison:
    """Check the options before training, cheap checks first.

    Raises:
        ValueError: an option is out of range, or a name is unknown.
        OSError: a file cannot be read, or the folder cannot be written.
    """
    check_numbers(options)
    models.check_name(model_name(options))
    datasets.check_name(options.data)
    redraw = draws_anew(options)
    study = None if options.tuned is None else finished_search(options, options.tuned)
    recipes = chosen_recipes(options) if study is None else list(study.runs.values())
    device = find_device(options.device)
    files.writable_folder(options.out)
    workers = options.workers or (provenance.usable_cores() if device.type == "cpu" else 1)
    if device.type == "cpu" and workers > 1:
        processes.begin_early()
    names = data_names(options, redraw=redraw)
    methods, loaded = _load(names, recipes, options, device)
    runs = tuple(
        replace(run, seed=seed, data=name if redraw else run.data)
        for seed, name in enumerate(names)
        for run in methods
    )
    data = loaded[names[0]]
    return Comparison(
        runs,
        data,
        min(workers, len(runs)),
        options.out,
        options.smoke,
        study,
        layers=hidden_layers(methods, data),
        spirals=spiral_runs(options, data, device),
        draws=loaded if redraw else {},
        boundaries=options.spirals,
    )


def _load(
    names: Sequence[str], recipes: Sequence[Recipe], options: Options, device: torch.device
) -> tuple[list[Recipe], dict[str, Data]]:
    """Load the data; return the recipes with the options, checked against them, and the data."""
    first, *others = dict.fromkeys(names)
    data = datasets.load(first, root=options.root.expanduser())
    methods = [with_options(run, options, data, device) for run in recipes]
    loaded = {first: _reduced(data, methods, options)}
    for name in others:
        loaded[name] = _reduced(datasets.load(name, root=Path()), methods, options)
    methods = [with_layers(run, loaded[first]) for run in methods]
    for run in methods:
        check(run, loaded[first])
    return methods, loaded


def _reduced(data: Data, methods: Sequence[Recipe], options: Options) -> Data:
    """Return the examples that the runs take of a data set, with the ε of the options."""
    # Methods that use no unlabelled examples ignore them.
    data = datasets.reduced(data, max(methods, key=lambda run: run.ict_weight))
    return data if options.eps is None else replace(data, eps=options.eps)
