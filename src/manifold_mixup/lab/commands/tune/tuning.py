"""A search that is ready to start: options that have been checked, with all that they name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from manifold_mixup._draw.stream import VERSION as STREAM
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import models
from manifold_mixup.lab.commands.tune.options import (
    BASE,
    Options,
    check_numbers,
    default_study,
    search_values,
    way_names,
)
from manifold_mixup.lab.data.arrays import Data
from manifold_mixup.lab.data.validation import Validation, validation
from manifold_mixup.lab.evaluate.measures import RMSE, Measure
from manifold_mixup.lab.launch.ray import import_ray
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.search.study import import_optuna, open_study
from manifold_mixup.lab.search.trials import METRICS, Search
from manifold_mixup.lab.training.device import find_device


@dataclass(frozen=True)
class Tuning:
    """Options that have been checked, ready for the search."""

    options: Options
    search: Search
    validation: Validation
    study: Path
    workers: int

    @property
    def folder(self) -> Path:
        """The folder of the runs and tables, beside the study."""
        return self.study.with_name(f"{self.study.stem}-runs")

    @property
    def asked(self) -> dict[str, Any]:
        """All that determines the result, as JSON."""
        options, ways = self.options, self.search.ways
        names = ("model", "recipe", "sampler", "seeds", "final_seeds", "seed", "together")
        return {
            "data": datasets.short_name(options.data),
            "ways": [way.name for way in ways],
            "trials": {way.name: way.trials for way in ways},
            **{name: getattr(options, name) for name in names},
            "metric": self.search.metric.key,
            "stream of plans": STREAM,
            "epochs": ways[0].run.epochs,
            "validation": self.validation.about,
            "space": {way.name: asdict(way.space) for way in ways},
            "examples' digest": provenance.fingerprint(self.search.split(0))[:12],
            "recipes": {way.name: asdict(way.run) for way in ways},
        }


def prepare(options: Options) -> Tuning:
    """Check the options before training, cheap checks first.

    Raises:
        ValueError: an option is out of range, a name is unknown, or the study is another's.
        OSError: a file cannot be read, or the folder cannot be written.
    """
    check_numbers(options)
    import_optuna()
    if options.on == "ray":
        import_ray()
    models.check_name(options.model)
    datasets.check_name(options.data)
    device, names = find_device(options.device), way_names(options)
    std = datasets.target_std(options.data)
    recipes = {name: _recipe(name, options, str(device), std) for name in names}
    validated = validation(
        options.data,
        root=options.root.expanduser(),
        share=options.validation,
        examples=options.examples,
        usual=recipes[BASE].examples,
        imbalance=options.imbalance,
        label_noise=options.label_noise,
        unlabelled=any(run.ict_weight for run in recipes.values()),
    )
    search = _search(options, recipes, validated)
    workers = options.workers or (provenance.usable_cores() if device.type == "cpu" else 1)
    tuning = Tuning(options, search, validated, options.study or default_study(options), workers)
    with open_study(tuning.study, asked=tuning.asked, ways=[way.name for way in search.ways]):
        pass  # only to refuse another search before anything is printed
    files.writable_folder(tuning.folder)
    return tuning


def _search(options: Options, recipes: Mapping[str, Recipe], validated: Validation) -> Search:
    """Return the search over the settings of each way, by its name."""
    values, data = search_values(options), validated.split(0)
    ways = tuple(
        values.way(name, replace(run, examples=validated.examples), data, trials=options.trials)
        for name, run in recipes.items()
    )
    values.require_used(ways)
    return Search(
        ways,
        validated.split,
        options.sampler,
        _metric(options, data),
        options.seeds,
        options.seed,
        options.together,
    )


def _metric(options: Options, data: Data) -> Measure:
    """Return the metric to choose by, if the data have it.

    Raises:
        ValueError: it is one of classifiers and the data are numbers, or the other way round.
    """
    has = [name for name in METRICS if (name == RMSE.key) == data.regression]
    name = options.metric or has[0]
    if name not in has:
        raise ValueError(
            f"--metric is {name}, but {data.name.removesuffix(' (validation)')} has "
            f"{'numbers' if data.regression else 'classes'} to predict. Choose by "
            f"{', '.join(has)}, or leave out --metric."
        )
    return METRICS[name]


def _recipe(name: str, options: Options, device: str, std: float | None) -> Recipe:
    data = datasets.short_name(options.data)
    run = catalog.recipe(options.recipe, name, data, options.model, target_std=std)
    if (options.optimizer or run.optimizer) != run.optimizer and not (
        options.lr and options.weight_decay
    ):
        raise ValueError(
            f"--optimizer is {options.optimizer}, but the recipe's learning rate {run.lr:g} and "
            f"weight decay {run.weight_decay:g} are for {run.optimizer}. Give --lr and "
            f"--weight-decay too."
        )
    return replace(
        run,
        epochs=options.epochs or run.epochs,
        imbalance=options.imbalance,
        label_noise=options.label_noise,
        optimizer=options.optimizer or run.optimizer,
        device=device,
    )
