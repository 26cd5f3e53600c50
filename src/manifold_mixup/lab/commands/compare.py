"""``manifold-mixup compare``: a few methods, several seeds, one table and one picture."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import models
from manifold_mixup.lab.commands.comparison import DEFAULT, Comparison, head, origin
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import Settings, features
from manifold_mixup.lab.evaluate.measures import looked_at
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.models.fresh import fresh_model, with_layers
from manifold_mixup.lab.paper import figures
from manifold_mixup.lab.recipes import catalog, drawn
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.power import power_text, smallest_differences
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.report.summary import Row, complete_seeds, only_means, summarise
from manifold_mixup.lab.report.table import (
    LEGEND,
    SMOKE,
    markdown_table,
    terminal_table,
)
from manifold_mixup.lab.report.unmoved import unmoved_in
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.evaluation import Evaluation
from manifold_mixup.lab.runs.result import Epoch, Result
from manifold_mixup.lab.search.tuned import Tuned, tuned
from manifold_mixup.lab.terminal.console import Console
from manifold_mixup.lab.training.device import find_device
from manifold_mixup.lab.training.method import check

CHOSEN = tyro.conf.arg(help_behavior_hint="(default: chosen per data set and model)")
ALL = tyro.conf.arg(help_behavior_hint="(default: all cores)")
THREE = tyro.conf.arg(help_behavior_hint="(default: none input manifold, or the ways of --tuned)")
CLEAN = tyro.conf.arg(help_behavior_hint="(default: 0, or that of --tuned)")
EVEN = tyro.conf.arg(help_behavior_hint="(default: 1, or that of --tuned)")
OWN = tyro.conf.arg(help_behavior_hint="(default: spiral-mlp for spirals, else mlp)")
ANEW = tyro.conf.arg(help_behavior_hint=f"(default: only for {DEFAULT})")


_BOUNDARIES = 5


@dataclass(frozen=True)
class Options:
    """Train no mixup, input mixup, manifold mixup or others; compare them over seeds.

    Without options, it trains a perceptron on the paper's two spirals, which are drawn anew for
    each of 5 seeds. That takes less than a minute on two CPU cores. The default settings were
    chosen for each data set and model on a validation split.
    """

    data: str = DEFAULT
    """Data set, such as mnist-1d or fashion-mnist, or an .npz file with x_train, y_train, x_test
    and y_test; "list" prints all."""
    model: Annotated[str | None, OWN] = None
    """Model, such as mlp or cnn; "list" prints all."""
    methods: Annotated[tuple[str, ...] | None, THREE] = None
    """Methods to compare, as for train --mixing, in the order of the table; no mixup comes first.
    "list" prints all."""
    tuned: Path | None = None
    """Study of manifold-mixup tune: each method has the settings of its best trial there."""
    seeds: int = 5
    """Number of seeds. Every method trains once per seed."""
    redraw: Annotated[bool | None, ANEW] = None
    """Draw generated data (mnist-1d, spirals, spirals-100) anew for each seed, training and test
    examples, the same for all methods. The intervals then cover the draw too."""
    epochs: Annotated[int | None, CHOSEN] = None
    """Passes over the training set."""
    examples: Annotated[int | None, CHOSEN] = None
    """Number of training examples, a random subset that is the same for all runs on the same
    data."""
    imbalance: Annotated[float | None, EVEN] = None
    """How many times more training examples the first class has than the last, with an exponential
    profile between them. The test set stays as it is."""
    label_noise: Annotated[float | None, CLEAN] = None
    """Share of the training labels that are another class, drawn once for each seed, the same for
    all methods. The test set stays clean."""
    alpha: Annotated[float | None, CHOSEN] = None
    """Parameter α of the Beta(α, α) distribution of λ, for all methods that mix."""
    layers: Annotated[tuple[str, ...] | None, CHOSEN] = None
    """Layers that manifold mixup and other methods at hidden layers mix, such as input hidden1."""
    bandwidth: Annotated[float | None, CHOSEN] = None
    """Bandwidth of near pairs (C-Mixup), in the units of the targets."""
    lr: Annotated[float | None, CHOSEN] = None
    """Peak learning rate, for all methods."""
    weight_decay: Annotated[float | None, CHOSEN] = None
    """Weight decay, for all methods."""
    optimizer: Annotated[Literal["adamw", "sgd"] | None, CHOSEN] = None
    """Optimizer, for all methods. SGD has Nesterov momentum 0.9."""
    batch_norm: Annotated[bool | None, CHOSEN] = None
    """Whether the model has batch norms: True adds them to the MLP, False removes them from the
    CNN."""
    eps: Annotated[float | None, CHOSEN] = None
    """Size ε of the FGSM attack, in the unit stated below the table."""
    spirals: bool = True
    """Draw the decision boundaries on two spirals, of the first seed. If the data are others, this
    also trains the paper's Figure 1: no mixup, input mixup and manifold mixup, one seed. Not for
    regressions."""
    smoke: bool = False
    """Test in seconds that everything works: two seeds, two epochs, at most 500 examples. The
    numbers mean nothing."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    out: Path = Path("compare")
    """Folder for results.json, table.md, compare.png, compare.svg and the runs. Finished runs in
    it are reused."""
    workers: Annotated[int | None, ALL] = None
    """Number of runs trained in parallel, on one core each. It does not affect the results."""
    device: str = "cpu"
    """Device to train on, such as cuda."""


def prepare(options: Options) -> Comparison:
    """Check the options before training, cheap checks first.

    Raises:
        ValueError: an option is out of range, or a name is unknown.
        OSError: a file cannot be read, or the folder cannot be written.
    """
    _check_numbers(options)
    models.check_name(_named_model(options))
    datasets.check_name(options.data)
    redraw = _redraws(options)
    study = None if options.tuned is None else _tuned(options, options.tuned)
    chosen = _chosen(options) if study is None else list(study.runs.values())
    device = find_device(options.device)
    files.writable_folder(options.out)
    if device.type == "cpu" and (options.workers or provenance.usable_cores()) > 1:
        processes.begin_early()
    names = _data_names(options, redraw=redraw)
    data = datasets.load(names[0], root=options.root.expanduser())
    methods = [_overridden(run, options, data, device) for run in chosen]
    data = _taken(data, methods, options)
    draws = {names[0]: data} if redraw else {}
    for name in names[1:] if redraw else ():
        draws[name] = _taken(datasets.load(name, root=Path()), methods, options)
    methods = [with_layers(run, data) for run in methods]
    for run in methods:
        check(run, data)
    grid_runs = tuple(
        replace(run, seed=seed, data=name if redraw else run.data)
        for seed, name in enumerate(names)
        for run in methods
    )
    workers = options.workers or (provenance.usable_cores() if device.type == "cpu" else 1)
    workers = min(workers, len(grid_runs))
    return Comparison(
        grid_runs,
        data,
        workers,
        options.out,
        options.smoke,
        study,
        layers=_hidden_layers(methods, data),
        spirals=_spiral_runs(options, data, device),
        draws=draws,
        boundaries=options.spirals,
    )


def run(comparison: Comparison) -> bool:
    """Train all runs, show the table, write the results; return whether all runs finished.

    Raises:
        FloatingPointError: a run diverged.
        OSError: a file could not be written, or a worker process died.
    """
    console = Console()
    console.print(comparison.title, style="bold", markup=False, highlight=False)
    start, results, complete = time.perf_counter(), list[Result](), True
    begun, look = head(comparison), _look(comparison)
    runs = (*comparison.runs, *comparison.spirals)
    try:
        with Live(runs, console) as live:
            for result in processes.train_all(
                runs,
                comparison.sources,
                workers=comparison.workers,
                on_epoch=partial(_tell, comparison, live),
                on_step=live.step,
                on_start=live.start,
                folder=comparison.folder,
                after=look,
            ):
                live.finished(result)
                if result.run in comparison.spirals:
                    continue
                results.append(_with_looks(comparison, look, result))
                _write_results(comparison, begun, results, time.perf_counter() - start)
    except KeyboardInterrupt:
        complete = False
    rows = _rows(comparison, results)
    if rows:
        _report(comparison, rows, results, begun, console)
    if not complete:
        _report_stop(comparison, results, console)
    return complete


def _tell(comparison: Comparison, live: Live, run: Recipe, epoch: Epoch) -> None:
    """Show an epoch; those of the spirals are many and short, so that only their bar moves."""
    if run in comparison.spirals:
        live.step(run, epoch.epoch)
    else:
        live.epoch(run, epoch)


def _chosen(options: Options) -> list[Recipe]:
    """Return the recipe of each method, no mixup first.

    Raises:
        ValueError: there is no such method, or no method at all.
    """
    data = datasets.short_name(options.data)
    names = _names(options) or [*catalog.MIXING][:3]
    std = datasets.target_std(options.data)
    model = _named_model(options)
    return [catalog.recipe("compare", name, data, model, target_std=std) for name in names]


def _named_model(options: Options) -> str:
    """Return the name of the model, by default one that suits the data."""
    usual = "spiral-mlp" if drawn.source(options.data) in drawn.SPIRALS else "mlp"
    return options.model or usual


def _redraws(options: Options) -> bool:
    """Return whether the data are drawn anew for each seed.

    Raises:
        ValueError: that was asked for, but the data are not generated, or are one draw.
    """
    if options.redraw and options.data not in drawn.GENERATED:
        raise ValueError(
            f"--redraw draws generated data anew for each seed, but --data is {options.data}. "
            f"Leave out --redraw, or give --data {' or '.join(drawn.GENERATED)}."
        )
    return options.data == DEFAULT if options.redraw is None else options.redraw


def _data_names(options: Options, *, redraw: bool) -> list[str]:
    """Return the name of each seed's data."""
    seeds = range(2 if options.smoke else options.seeds)
    return [drawn.drawn(options.data, seed) if redraw else options.data for seed in seeds]


def _taken(data: Data, methods: Sequence[Recipe], options: Options) -> Data:
    """Return the examples that the runs take of a data set, with the ε of the options."""
    # Methods that use no unlabelled examples ignore them.
    data = datasets.reduced(data, max(methods, key=lambda run: run.ict_weight))
    return data if options.eps is None else replace(data, eps=options.eps)


def _hidden_layers(methods: Sequence[Recipe], data: Data) -> tuple[str, ...]:
    """Return the hidden layers of S, whose flatness is measured for all methods alike.

    They are those that the methods mix, or those that manifold mixup would mix.
    """
    if data.regression:
        return ()
    model = fresh_model(replace(methods[0], compile=False), data)
    mixed = dict.fromkeys(layer for run in methods for layer in run.layers if layer != "input")
    found = mixed or models.eligible(methods[0].model, model, data.x)
    return tuple(one for one in found if one != "input" and _has_states(model, one, data))


def _has_states(model: nn.Module, layer: str, data: Data) -> bool:
    """Return whether a layer gives one tensor in a pass, so that its states can be measured."""
    try:
        features(model, data.x[:2], layer=layer)
    except (RuntimeError, TypeError):
        return False
    return True


def _spiral_runs(options: Options, data: Data, device: torch.device) -> tuple[Recipe, ...]:
    """Return the runs of the paper's Figure 1 with the first seed, if they are to be drawn."""
    if not options.spirals or data.regression or drawn.source(options.data) in drawn.SPIRALS:
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


def _names(options: Options) -> list[str] | None:
    """Return the methods' names that were given, no mixup first, each once."""
    if options.methods is None:
        return None
    given = [name for word in options.methods for name in word.split(",") if name]
    if not given:
        raise ValueError("--methods names no method. Leave it out for none, input and manifold.")
    return sorted(dict.fromkeys(given), key=lambda name: name != "none")


def _tuned(options: Options, path: Path) -> Tuned:
    """Return what a search chose, if it was about the same data and model.

    Raises:
        ValueError: it was not, or a setting is given that the search chose.
    """
    fixed = ("lr", "weight_decay", "alpha", "layers", "bandwidth", "optimizer")
    if given := [name for name in fixed if getattr(options, name) is not None]:
        raise ValueError(
            f"--{given[0].replace('_', '-')} was given, but --tuned chooses it. Leave out one."
        )
    found = tuned(path, _names(options))
    asked = (datasets.short_name(options.data), _named_model(options))
    if asked != (found.data, found.model):
        raise ValueError(
            f"{path} is a search with {found.model} on {found.data}, but --data is {asked[0]} and "
            f"--model is {asked[1]}. Give --data {found.data} --model {found.model}, or another "
            f"study."
        )
    return found


def _overridden(run: Recipe, options: Options, data: Data, device: torch.device) -> Recipe:
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


def _check_noise(options: Options) -> None:
    if options.label_noise is not None and not 0 <= options.label_noise < 1:
        raise ValueError(
            f"--label-noise is {options.label_noise}. Expected 0 or more, and less than 1."
        )


def _check_numbers(options: Options) -> None:
    for name in ("seeds", "epochs", "examples", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}. Expected 1 or more.")
    if options.imbalance is not None and not 1 <= options.imbalance < math.inf:
        raise ValueError(f"--imbalance is {options.imbalance}. Expected 1 or more.")
    _check_noise(options)
    if options.layers == ():
        raise ValueError("--layers names no layer. Leave it out for the recipe's own layers.")
    for name in ("lr", "eps", "alpha", "bandwidth"):
        value = getattr(options, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"--{name} is {value}. Expected a finite number above 0.")
    decay = options.weight_decay
    if decay is not None and not (decay >= 0 and math.isfinite(decay)):
        raise ValueError(f"--weight-decay is {decay}. Expected a finite number, 0 or more.")


def _rows(comparison: Comparison, results: Sequence[Result]) -> list[Row]:
    rows = summarise(results, comparison.methods)
    return only_means(rows) if comparison.smoke else rows


def _look(comparison: Comparison) -> Evaluation | None:
    """Return what is measured beside the scores of a run, in the process that trained it."""
    if comparison.data.regression:
        return None
    parts = ("confidence", "flatness") if comparison.layers else ("confidence",)
    names = tuple(dict.fromkeys(run.data for run in comparison.runs))
    return Evaluation(names, parts, Settings(layers=comparison.layers))


def _with_looks(comparison: Comparison, look: Evaluation | None, result: Result) -> Result:
    """Add to a result what was measured after it."""
    if look is None:
        return result
    data = comparison.sources[result.run.data]
    found = look(comparison.folder / run_folder.folder_name(result.run), data)
    measures = looked_at(comparison.layers)
    return replace(result, more={one.key: one.read(result.last, found) for one in measures})


def _drawable(comparison: Comparison) -> dict[str, Recipe]:
    """Return the finished runs on spirals whose boundaries are drawn, by method.

    They are those of Figure 1, or the first seed's if the comparison itself is about spirals, of
    as many methods as fit beside each other.
    """
    first = comparison.runs[: min(len(comparison.methods), _BOUNDARIES)]
    own = comparison.boundaries and drawn.source(first[0].data) in drawn.SPIRALS
    runs = {_plainly(run.method): run for run in first} if own else {}
    runs |= {_plainly(run.method): run for run in comparison.spirals}
    folders = {name: comparison.folder / run_folder.folder_name(run) for name, run in runs.items()}
    return {name: run for name, run in runs.items() if (folders[name] / run_folder.RESULT).exists()}


def _plainly(method: str) -> str:
    """Return the name of a method on the spirals without the data and α."""
    return method.removeprefix("spirals, ").partition(" α")[0]


def _report(
    comparison: Comparison,
    rows: list[Row],
    results: Sequence[Result],
    begun: Mapping[str, Any],
    console: Console,
) -> None:
    # matplotlib takes a second to import
    from manifold_mixup.lab.report import plots
    from manifold_mixup.lab.report.paper_picture import input_view

    title, caption, smoke = comparison.title, comparison.caption, comparison.smoke
    console.print(terminal_table(rows, title=title, width=console.width))
    seeds = complete_seeds(results, comparison.methods)
    shown = [result for result in results if result.run.seed in seeds]
    power, still = power_text(rows), unmoved_in(shown, comparison.methods)
    for paragraph in (SMOKE if smoke else LEGEND, *comparison.notes, still, power):
        if paragraph:
            console.print(paragraph, markup=False, highlight=False)
    markdown = markdown_table(rows, title=title, caption=caption, smoke=smoke)
    markdown += "".join(f"\n{paragraph}\n" for paragraph in (still, power) if paragraph)
    markdown += f"\n{origin(begun)}\n"
    files.write(comparison.out / "table.md", markdown.encode())
    spirals = {
        name: input_view(
            comparison.folder / run_folder.folder_name(run), comparison.sources[run.data]
        )
        for name, run in _drawable(comparison).items()
    }
    picture = plots.comparison_picture(shown, rows, title=title, smoke=smoke, spirals=spirals)
    pictures = plots.save(picture, comparison.out / "compare")
    written = [comparison.out / "results.json", comparison.out / "table.md", *pictures]
    console.print(f"Written: {', '.join(map(str, written))}", markup=False, soft_wrap=True)


def _write_results(
    comparison: Comparison, begun: dict[str, Any], results: Sequence[Result], seconds: float
) -> None:
    """Write all finished runs; called after each run, so that no finished run is lost."""
    rows = _rows(comparison, results)
    content = begun | {
        "complete": len(results) == len(comparison.runs),
        "smoke": comparison.smoke,
        "wall_seconds": seconds,
        "summary": [asdict(row) for row in rows],
        "power": smallest_differences(rows) if rows else {},
        "runs": [asdict(result) for result in results],
    }
    files.write_json(comparison.out / "results.json", content)


def _report_stop(comparison: Comparison, results: Sequence[Result], console: Console) -> None:
    done, wanted = len(_drawable(comparison)), len(comparison.spirals)
    spirals = f", and {done} of {wanted} on the spirals" if done < wanted else ""
    console.print(
        f"Stopped: {len(results)} of {len(comparison.runs)} runs were finished{spirals}. The same "
        f"command resumes the others."
    )
    if results:
        seeds = len(complete_seeds(results, comparison.methods))
        console.print(
            f"Their results are in {comparison.out / 'results.json'}; "
            f"the table covers the {seeds} seed{'' if seeds == 1 else 's'} "
            "that all methods have finished."
        )
