"""``manifold-mixup tune``: which way of mixing for these data, against no mixup tuned as much."""

import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from manifold_mixup._sample import VERSION as STREAM
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import models
from manifold_mixup.lab.data.arrays import Data
from manifold_mixup.lab.data.validation import Validation, validation
from manifold_mixup.lab.evaluate.measures import RMSE, Measure
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.launch.callbacks import Source
from manifold_mixup.lab.launch.ray import import_ray
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.command import train_command
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.report.summary import summarise
from manifold_mixup.lab.report.table import LAST_EPOCH, markdown_table, terminal_table
from manifold_mixup.lab.report.tuning_table import (
    FINALISTS,
    finalists_markdown,
    finalists_table,
    trials_markdown,
)
from manifold_mixup.lab.report.tuning_words import (
    LOOK,
    head,
    settings_lines,
    trial_header,
    trial_line,
    verdict,
)
from manifold_mixup.lab.report.unmoved import unmoved_in
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.search.final import Finalist, finalists, look, looked, winner
from manifold_mixup.lab.search.sampling import Sampler
from manifold_mixup.lab.search.study import StudyFile, import_optuna, opened
from manifold_mixup.lab.search.trials import METRICS, Outcome, Search, trials
from manifold_mixup.lab.search.ways import SearchValues
from manifold_mixup.lab.suggest import unknown
from manifold_mixup.lab.terminal.console import Console
from manifold_mixup.lab.training.device import find_device

CHOSEN = tyro.conf.arg(help_behavior_hint="(default: that of the recipe)")
AROUND = tyro.conf.arg(help_behavior_hint="(default: around that of the recipe)")
ALL = tyro.conf.arg(help_behavior_hint="(default: all cores)")
BY = tyro.conf.arg(help_behavior_hint="(default: error, or rmse if the data are numbers)")
BUDGET = tyro.conf.arg(help_behavior_hint="(default: 20)")
SPLIT = tyro.conf.arg(help_behavior_hint="(default: the data's own validation set, or else 0.2)")
NAMED = tyro.conf.arg(help_behavior_hint="(default: runs/tune-DATA-MODEL.db)")

BASE = next(iter(catalog.MIXING))  # no mixup


@dataclass(frozen=True)
class Options:
    """Search the best settings of each way of mixing, against no mixup with the same budget.

    Every way has the same number of trials. A trial trains with some settings and several seeds,
    and is measured on validation examples. Learning rate and weight decay are searched for every
    way; α and the layers for those that mix. At the end, the best trial of each way is trained
    with fresh seeds, the best way is compared with no mixup, and both are measured once on the test
    set.

    The same command resumes a search that was stopped or killed. No trial is stopped early, since
    mixing learns more slowly and gains late.
    """

    data: str = "mnist-1d"
    """Data set, such as mnist-1d or fashion-mnist, a folder of images, or an .npz file; "list"
    prints all."""
    model: str = "mlp"
    """Model, such as mlp or cnn; "list" prints all."""
    ways: tuple[str, ...] = tuple(catalog.MIXING)[:3]
    """Ways of mixing; no mixup is always among them. "list" prints all."""
    recipe: str = "compare"
    """Recipe to start from; "list" prints all. Its settings are the first trial of each way."""
    trials: Annotated[int | None, BUDGET] = None
    """Number of trials of each way, those that diverge included."""
    seeds: int = 3
    """Number of seeds of a trial. Its value is their mean."""
    final_seeds: int = 5
    """Number of fresh seeds for the best trial of each way, and for the look at the test set."""
    metric: Annotated[str | None, BY] = None
    """Metric to choose by, at the last epoch: error, nll or brier; of numbers, rmse."""
    validation: Annotated[float | None, SPLIT] = None
    """Share of the training set to hold out, drawn anew for each seed."""
    sampler: Sampler = "tpe"
    """How settings are drawn: tpe learns from the trials before, random does not. grid tries every
    combination of the values given, so ways with more settings have more trials."""
    epochs: Annotated[int | None, CHOSEN] = None
    """Passes over the training set."""
    examples: Annotated[int | None, CHOSEN] = None
    """Number of training examples, a random subset that is the same for all runs. The way ict also
    learns from the others, without their labels."""
    imbalance: float = 1.0
    """How many times more training examples the first class has than the last, with an exponential
    profile between them. Validation and test examples stay as they are."""
    label_noise: float = 0.0
    """Share of the training and validation labels that are another class, drawn once for each seed,
    the same for all ways. The test set stays clean."""
    optimizer: Annotated[Literal["adamw", "adam", "sgd"] | None, CHOSEN] = None
    """Optimizer, for all ways."""
    lr: Annotated[tuple[float, ...], AROUND] = ()
    """Learning rates: the values of a grid, or the bounds of a range, searched on a log scale."""
    weight_decay: Annotated[tuple[float, ...], AROUND] = ()
    """Weight decays, likewise. A single value is not searched."""
    alpha: Annotated[tuple[float, ...], AROUND] = ()
    """Values of alpha, likewise."""
    layers: Annotated[tuple[str, ...], AROUND] = ()
    """Sets of layers for hidden mixing, such as input+hidden1 hidden1."""
    bandwidth: Annotated[tuple[float, ...], AROUND] = ()
    """Bandwidths of near pairs (c-mixup), in the units of the targets, as for --lr."""
    share: Annotated[tuple[float, ...], AROUND] = ()
    """Shares of a state that PatchUp's blocks cover, as for --lr."""
    ict_weight: Annotated[tuple[float, ...], AROUND] = ()
    """Greatest weights of the consistency on unlabelled examples (ict), as for --lr."""
    ema: Annotated[tuple[float, ...], AROUND] = ()
    """Decays of the mean teacher (ict), as for --lr."""
    seed: int = 0
    """Seed of the search."""
    together: int = 1
    """Number of trials of each way that are drawn at once, for many processes or machines."""
    test: bool = True
    """Look at the test set at the end. Without, the same command with --test looks later."""
    study: Annotated[Path | None, NAMED] = None
    """File of the trials, an Optuna study. Runs and tables are kept beside it."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    workers: Annotated[int | None, ALL] = None
    """Number of runs trained in parallel, on one core each. It does not affect the results."""
    device: str = "cpu"
    """Device to train on, such as cuda."""
    on: processes.Place = "here"
    """Where to train: here, in processes of this machine; or ray, on the cluster at RAY_ADDRESS.
    On a cluster, --root and --study must be on storage that all nodes share."""
    gpus: float = 0.0
    """GPUs, or the fraction of a GPU, that Ray reserves for each run."""


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
    _check_numbers(options)
    import_optuna()
    if options.on == "ray":
        import_ray()
    models.check_name(options.model)
    datasets.check_name(options.data)
    device, names = find_device(options.device), _ways(options)
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
    given, few = _search_values(options), validated.split(0)
    ways = tuple(
        given.way(name, replace(run, examples=validated.examples), few, trials=options.trials)
        for name, run in recipes.items()
    )
    given.require_used(ways)
    search = Search(
        ways, validated.split, options.sampler, _metric(options, few), options.seeds,
        options.seed, options.together,
    )  # fmt: skip
    workers = options.workers or (provenance.usable_cores() if device.type == "cpu" else 1)
    tuning = Tuning(options, search, validated, options.study or _default_study(options), workers)
    with opened(tuning.study, asked=tuning.asked, ways=[way.name for way in ways]):
        pass  # only to refuse another search before anything is printed
    files.writable_folder(tuning.folder)
    return tuning


def run(tuning: Tuning) -> bool:
    """Search, compare, look at the test set once; return whether all of it was finished.

    Raises:
        FloatingPointError: all trials of all ways diverged, or a run of the look at the test set.
        OSError: a file could not be written, or a worker process died.
    """
    console = Console()
    title, *lines = head(tuning.search, tuning.validation, recipe=tuning.options.recipe)
    console.print(title, style="bold", markup=False, highlight=False)
    _print([*lines, f"Study: {tuning.study}"], console)
    names = [way.name for way in tuning.search.ways]
    with opened(tuning.study, asked=tuning.asked, ways=names) as study:
        try:
            _search(tuning, study, console)
            found = finalists(
                tuning.search,
                study,
                seeds=tuning.options.final_seeds,
                folder=tuning.folder / "finalists",
                train=_trainer(tuning, console, held_out=True),
            )
            chosen = _report(tuning, study, found, console)
            if tuning.options.test:
                _look(tuning, study, found[0], chosen, console)
        except KeyboardInterrupt:
            done = sum(len(study.raw(name)) for name in names)
            total = sum(way.trials for way in tuning.search.ways)
            console.print(
                f"Stopped: {done} of {total} trials are finished. The same command resumes."
            )
            return False
    written = ", ".join(str(tuning.folder / name) for name in ("table.md", "trials.md"))
    console.print(f"Written: {written}", markup=False, soft_wrap=True)
    return True


def _print(lines: Sequence[str], console: Console) -> None:
    """Print lines that are wrapped below their second column."""
    for line in lines:
        column = line.rfind("  ") + 2 if "  " in line.strip() else 0
        words = textwrap.wrap(line, console.width, subsequent_indent=" " * column) or [""]
        console.print("\n".join(words), markup=False, highlight=False, soft_wrap=True)


def _check_numbers(options: Options) -> None:
    for name in ("trials", "seeds", "final_seeds", "epochs", "examples", "workers", "together"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{_flag(name)} is {value}. Expected 1 or more.")
    if not 1 <= options.imbalance < math.inf:
        raise ValueError(f"--imbalance is {options.imbalance}. Expected 1 or more.")
    if not 0 <= options.label_noise < 1:
        raise ValueError(
            f"--label-noise is {options.label_noise}. Expected 0 or more, and less than 1."
        )
    _search_values(options).check()
    if options.sampler == "grid" and options.trials is not None:
        raise ValueError(
            f"--trials is {options.trials}, but --sampler grid tries every combination of the "
            f"values given. Leave out --trials, or use --sampler random."
        )
    if options.metric is not None and options.metric not in METRICS:
        raise ValueError(f"{unknown('metric', options.metric, METRICS)}.")
    if options.gpus < 0:
        raise ValueError(f"--gpus is {options.gpus}. Expected 0 or more.")


def _search_values(options: Options) -> SearchValues:
    return SearchValues(
        lr=options.lr,
        weight_decay=options.weight_decay,
        alpha=options.alpha,
        layers=options.layers,
        bandwidth=options.bandwidth,
        share=options.share,
        ict_weight=options.ict_weight,
        ema=options.ema,
        grid=options.sampler == "grid",
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


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _ways(options: Options) -> list[str]:
    """Return the names of the ways, no mixup first, each once."""
    for name in options.ways:
        if name not in catalog.MIXING:
            raise ValueError(f"{unknown('kind of mixing', name, catalog.MIXING)}.")
    return list(dict.fromkeys([BASE, *options.ways]))


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


def _default_study(options: Options) -> Path:
    words = (datasets.short_name(options.data).removesuffix(".npz"), options.model)
    name = "-".join("".join(c if c.isalnum() else "-" for c in word) for word in words)
    return Path("runs") / f"tune-{name}.db"


def _search(tuning: Tuning, study: StudyFile, console: Console) -> None:
    """Train the missing trials, and print a line for each."""
    search = tuning.search
    done = sum(len(study.raw(way.name)) for way in search.ways)
    total = sum(way.trials for way in search.ways)
    if done:
        console.print(f"{done} of {total} trials were already finished.")
    if done < total:
        console.print(trial_header(search), style="bold", markup=False, highlight=False)
    folder = tuning.folder / "trials"
    for asked in trials(
        search, study, folder=folder, train=_trainer(tuning, console, held_out=True)
    ):
        trial = study.trials(asked.way.name)[asked.number]
        console.print(
            trial_line(asked, trial, search), markup=False, highlight=False, soft_wrap=True
        )
    files.write(tuning.folder / "trials.md", trials_markdown(search.ways, study).encode())


def _trainer(tuning: Tuning, console: Console, *, held_out: bool) -> Any:
    """Return the function that trains runs for the search, and shows their progress."""

    def train(
        runs: Sequence[Recipe], source: Source, folder: Path, title: str
    ) -> Mapping[Recipe, Outcome]:
        found: dict[Recipe, Outcome] = {}
        if not runs:  # all trials of all ways failed
            return found
        with Live(runs, console, title=title, held_out=held_out, lines=False) as live:

            def failed(run: Recipe, error: FloatingPointError) -> None:
                found[run] = str(error)
                live.failed(run)

            for result in processes.train_all(
                runs,
                source,
                workers=min(tuning.workers, len(runs)),
                on_epoch=live.epoch,
                on_step=live.step,
                on_failure=failed,
                folder=folder,
                on=tuning.options.on,
                gpus=tuning.options.gpus,
            ):
                live.finished(result)
                found[result.run] = result
        return found

    return train


def _report(
    tuning: Tuning, study: StudyFile, found: Sequence[Finalist], console: Console
) -> Finalist:
    """Print the finalists and the command of the best; return it.

    Raises:
        FloatingPointError: all trials of all ways failed.
    """
    metric, options = tuning.search.metric, tuning.options
    chosen = winner(found, metric)
    if chosen is None:
        raise FloatingPointError(
            f"no way has a finalist: {found[0].reason}. Smaller learning rates may help (--lr), in "
            f"another study (--study)."
        )
    seeds = options.final_seeds
    title = f"The best trial of each way on {seeds} fresh seed{'s' * (seeds > 1)} (validation)"
    console.print()
    console.print(finalists_table(found, study, metric, title=title))
    _print(["", *settings_lines(found), "", FINALISTS], console)
    console.print(verdict(chosen, found[0], metric), style="bold", markup=False, highlight=False)
    markdown = finalists_markdown(found, study, metric, title=title)
    files.write(tuning.folder / "table.md", markdown.encode())
    console.print("\nTo train it:", highlight=False)
    console.print(f"  {_command(tuning, chosen)}", markup=False, highlight=False, soft_wrap=True)
    return chosen


def _command(tuning: Tuning, chosen: Finalist) -> str:
    options = tuning.options
    words = train_command(
        replace(chosen.run, seed=0),
        recipe=options.recipe,
        mixing=chosen.way.name,
        data=options.data,
        root=None if options.root == Options.root else options.root,
        target_std=datasets.target_std(options.data),
    )
    return shlex.join(words)


def _look(
    tuning: Tuning, study: StudyFile, base: Finalist, chosen: Finalist, console: Console
) -> None:
    """Look at the test set, unless that was done before, and print what was found."""
    compared = [base, chosen] if base.results and chosen is not base else [chosen]
    results = looked(study)
    if results is not None:
        console.print("\nThe test set was looked at before; these are the stored results.")
    else:
        data = _whole(tuning)
        look(
            study,
            compared,
            data,
            seeds=tuning.options.final_seeds,
            folder=tuning.folder / "test",
            train=_trainer(tuning, console, held_out=False),
        )
        results = looked(study)
    assert results is not None
    _print_look(tuning, results, [one.way.run.method for one in compared], console)


def _whole(tuning: Tuning) -> datasets.Data:
    options = tuning.options
    data = datasets.load(options.data, root=options.root.expanduser())
    # Ways that use no unlabelled examples ignore them.
    runs = (way.run for way in tuning.search.ways)
    return datasets.reduced(data, max(runs, key=lambda run: run.ict_weight))


def _print_look(
    tuning: Tuning, results: Sequence[Result], methods: list[str], console: Console
) -> None:
    rows = [row for row in summarise(results, methods) if row.when == "last"]
    title = "Test set, last epoch"
    caption = f"Trained on {tuning.validation.retrained}. {LOOK}"
    if still := unmoved_in(results, methods):
        caption += f" {still}"
    console.print()
    console.print(terminal_table(rows, title=title, width=console.width))
    _print([f"{LAST_EPOCH} {caption}"], console)
    first = next(one for one in results if one.run.seed == 0 and one.run.method == methods[-1])
    last = first.last
    found = f"RMSE is {last.rmse:.4f}" if first.run.regression else f"error is {last.error:.2f} %"
    console.print(f"The command above has seed 0, whose test {found}.", highlight=False)
    text = markdown_table(rows, title=title, caption=caption)
    path = tuning.folder / "table.md"  # which has the finalists already
    files.write(path, f"{path.read_text()}\n{text}".encode())
