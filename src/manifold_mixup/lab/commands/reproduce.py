"""``manifold-mixup reproduce``: a table of the paper, with the paper's numbers beside ours."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.markdown import Markdown
from torch import Tensor

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import paper
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import UNITS
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.launch.ray import import_ray
from manifold_mixup.lab.paper.numbers import WHEN, Found, Line, lines
from manifold_mixup.lab.paper.scale import Scale, scale, scaled
from manifold_mixup.lab.paper.tables import Table
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.paper_table import paper_table
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.evaluation import When, evaluated
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.terminal.console import Console
from manifold_mixup.lab.training.device import find_device, usual_device
from manifold_mixup.lab.training.method import check

SCALED = tyro.conf.arg(help_behavior_hint="(default: given by --scale)")
DEVICE = tyro.conf.arg(help_behavior_hint="(default: cuda if there is a GPU, else cpu)")
WORKERS = tyro.conf.arg(help_behavior_hint="(default: all cores, or 1 on an accelerator)")


@dataclass(frozen=True)
class Options:
    """Reproduce a table or figure of the paper; print the paper's numbers beside ours.

    Finished runs are reused, including those of other tables in the same folder. The same command
    resumes runs that were stopped.
    """

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
    """table-1a, table-1b, table-2 to table-9, preact50, gradient-block, knn, low-data,
    label-noise, outliers, figure-1, figure-2, figure-5, figure-6, figure-7, or spectra; "list"
    describes them."""
    scale: str = "full"
    """Scale of the experiment: full, as in the paper; laptop, small enough for two CPU cores; or
    smoke, only to test that it runs."""
    seeds: int = 5
    """Number of seeds; the paper used 5."""
    rows: tuple[str, ...] = ()
    """Only rows whose label contains one of these words, such as preact-resnet18."""
    epochs: Annotated[int | None, SCALED] = None
    """Maximal number of passes over the training set; the schedule is shortened to fit."""
    width: Annotated[int | None, SCALED] = None
    """Channels of the first stage, or units of a perceptron's hidden layers."""
    examples: Annotated[int | None, SCALED] = None
    """Number of training examples, a fixed random subset."""
    test: Annotated[int | None, SCALED] = None
    """Number of test examples, a random subset that is the same for all runs."""
    tested: Annotated[int | None, SCALED] = None
    """Number of test examples for attacks, deformations, neighbours and outliers."""
    lr: Annotated[float | None, SCALED] = None
    """Peak learning rate. A short training may need another than the paper's."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Training precision."""
    compile: bool = False
    """Compile the model."""
    channels_last: bool = False
    """Store images in channels-last memory format."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    out: Path = Path("reproduce")
    """Folder for the table's .md and .json files and the runs. Finished runs in it are reused."""
    workers: Annotated[int | None, WORKERS] = None
    """Number of runs trained in parallel."""
    device: Annotated[str | None, DEVICE] = None
    """Device to train on."""
    on: processes.Place = "here"
    """Where to train: here, in processes of this machine; or ray, on the cluster at RAY_ADDRESS.
    On a cluster, --root and --out must be on storage that all nodes share."""
    gpus: float = 0.0
    """GPUs, or the fraction of a GPU, that Ray reserves for each run."""


@dataclass(frozen=True)
class Reproduction:
    """Options that have been checked, ready for training.

    Attributes:
        table: the scaled table.
        scale: the scale.
        groups: the runs, grouped by data set.
        evaluate: evaluates a finished run; ``None`` if its scores are enough.
        workers: the number of runs trained in parallel.
        out: the output folder.
        on: where the runs are trained.
        gpus: the GPUs that Ray reserves for each run.
    """

    table: Table
    scale: Scale
    groups: Sequence[tuple[Data, Sequence[Recipe]]]
    evaluate: "Evaluation | None"
    workers: int
    out: Path
    on: processes.Place = "here"
    gpus: float = 0.0

    @property
    def runs(self) -> tuple[Recipe, ...]:
        """The runs of all groups."""
        return tuple(run for _, group in self.groups for run in group)


@dataclass(frozen=True)
class Evaluation:
    """The evaluation that a table needs, for the last and for the best epoch of a run."""

    table: Table
    tested: int | None

    def __call__(
        self, folder: Path, data: Data, tell: Callable[[str], None] = lambda _: None
    ) -> dict[When, dict[str, Any]]:
        """Evaluate a finished run, or read its stored evaluation."""

        def show(when: When, done: int, count: int, name: str) -> None:
            tell(f"{when} epoch evaluated: {done} of {count}, {name}")

        tested = data if self.tested is None else datasets.take_tested(data, self.tested)
        return {
            when: evaluated(
                folder,
                data,
                when,
                battery=self.table.battery,
                settings=self.table.settings,
                tested=tested,
                progress=partial(show, when),
            )
            for when in WHEN
        }


def prepare(options: Options) -> Reproduction:
    """Check the options before training, cheap checks first.

    Raises:
        ValueError: an option is out of range, or a name is unknown.
        OSError: a file cannot be read, or the folder cannot be written.
    """
    _check_numbers(options)
    if options.on == "ray":
        import_ray()
    table = paper.table(options.table)
    by = _scale(options)
    table = scaled(_chosen_rows(table, options.rows), by)
    device = find_device(options.device or usual_device())
    files.writable_folder(options.out)
    table = _on_this_machine(table, options, by, str(device))
    groups = list(_groups(table, options, by))
    for data, group in groups:
        for run in group:
            if run.seed == 0:
                check(run, data)
    count = sum(len(group) for _, group in groups)
    workers = options.workers or (provenance.usable_cores() if device.type == "cpu" else 1)
    evaluate = Evaluation(table, by.tested) if table.battery else None
    return Reproduction(
        table, by, groups, evaluate, min(workers, count), options.out, options.on, options.gpus
    )


def run(reproduction: Reproduction) -> bool:
    """Train and evaluate all runs, show and write the table; return whether all runs finished.

    Raises:
        FloatingPointError: a run diverged.
        OSError: a file could not be written, or a worker process died.
    """
    console, start, complete = Console(), time.perf_counter(), True
    head, found = _head(reproduction), dict[Recipe, dict[int, Found]]()
    console.print(_title(reproduction), style="bold", markup=False, highlight=False)
    try:
        with Live(reproduction.runs, console) as live:
            for result, evaluation in _finished(reproduction, live):
                live.finished(result)
                of_run = found.setdefault(replace(result.run, seed=0), {})
                of_run[result.run.seed] = Found(result, evaluation)
                _write(reproduction, head, found, time.perf_counter() - start)
    except KeyboardInterrupt:
        complete = False
    if not complete:
        done = sum(map(len, found.values()))
        console.print(
            f"Stopped: {done} of {len(reproduction.runs)} runs were finished. The same command "
            f"resumes the others."
        )
    if found:
        path = _write(reproduction, head, found, time.perf_counter() - start)
        console.print(Markdown(path.read_text().replace("<br>", " ")))
        written = [path, path.with_suffix(".json"), *_drawn(reproduction, found)]
        console.print(f"Written: {', '.join(map(str, written))}", markup=False, soft_wrap=True)
    return complete


def _drawn(
    reproduction: Reproduction, found: Mapping[Recipe, Mapping[int, Found]]
) -> Sequence[Path]:
    """Draw and write the picture of the table, if it has one."""
    table, out = reproduction.table, reproduction.out
    if not table.picture:
        return ()
    from manifold_mixup.lab.report import (
        paper_picture,  # matplotlib takes a second to import
        plots,
    )

    data = {group[0].data: data for data, group in reproduction.groups}
    drawn = paper_picture.draw(table, found, data, out / "runs", title=_title(reproduction))
    return plots.save(drawn, out / table.name)


def _finished(
    reproduction: Reproduction, live: Live
) -> Iterator[tuple[Result, Mapping[When, Mapping[str, Any]]]]:
    folder, evaluate = reproduction.out / "runs", reproduction.evaluate
    for data, group in reproduction.groups:
        for result in processes.train_all(
            group,
            data,
            workers=reproduction.workers,
            on_epoch=live.epoch,
            on_step=live.step,
            on_note=live.note,
            on_start=live.start,
            folder=folder,
            after=evaluate,
            on=reproduction.on,
            gpus=reproduction.gpus,
        ):
            # The process that trained the run also evaluated it; this reads the result.
            found = (
                {}
                if evaluate is None
                else evaluate(folder / run_folder.folder_name(result.run), data)
            )
            yield result, found


def _scale(options: Options) -> Scale:
    given = {part.name: getattr(options, part.name) for part in fields(Scale)}
    start = scale(options.scale, options.table)
    return replace(start, **{name: value for name, value in given.items() if value is not None})


def _chosen_rows(table: Table, words: Sequence[str]) -> Table:
    """Keep the requested rows and their baselines."""
    if not words:
        return table
    kept = [row for row in table.rows if any(word in row.label for word in words)]
    for word in words:
        if not any(word in row.label for row in kept):
            rows = "; ".join(row.label for row in table.rows)
            raise ValueError(f"no row label of {table.name} contains {word!r}. Rows: {rows}.")
    labels = {row.label for row in kept} | {row.base for row in kept}
    return replace(table, rows=tuple(row for row in table.rows if row.label in labels))


def _on_this_machine(table: Table, options: Options, by: Scale, device: str) -> Table:
    own = partial(
        replace,
        precision=options.precision,
        compile=options.compile,
        channels_last=options.channels_last,
        device=device,
    )
    rows = (replace(row, run=own(row.run)) if row.run else row for row in table.rows)
    unknown = {name: _test_images(name, options, by) for name in table.unknown}
    return replace(table, rows=tuple(rows), settings=replace(table.settings, unknown=unknown))


def _test_images(name: str, options: Options, by: Scale) -> Tensor:
    data, count = datasets.load(name, root=options.root.expanduser()), by.tested or by.test
    return (data if count is None else datasets.take_tested(data, count)).x_test


def _groups(table: Table, options: Options, by: Scale) -> Iterator[tuple[Data, list[Recipe]]]:
    """Yield each data set with its runs: all rows for the first seed, then for the next."""
    recipes = dict.fromkeys(row.run for row in table.rows if row.run is not None)
    kinds = dict.fromkeys((run.data, run.examples, run.per_class) for run in recipes)
    for kind in kinds:
        own = [run for run in recipes if (run.data, run.examples, run.per_class) == kind]
        data = datasets.load_for(own[0], root=options.root.expanduser())
        if by.test is not None:
            data = datasets.take_tested(data, by.test)
        yield data, [replace(run, seed=seed) for seed in range(options.seeds) for run in own]


def _check_numbers(options: Options) -> None:
    for name in ("seeds", "workers", *(part.name for part in fields(Scale))):
        value = getattr(options, name)
        if name != "lr" and value is not None and value < 1:
            raise ValueError(f"--{name} is {value}. Expected 1 or more.")
    if options.lr is not None and not (options.lr > 0 and math.isfinite(options.lr)):
        raise ValueError(f"--lr is {options.lr:g}. Expected a finite number above 0.")
    if options.gpus < 0:
        raise ValueError(f"--gpus is {options.gpus}. Expected 0 or more.")


def _title(reproduction: Reproduction) -> str:
    short = str(reproduction.scale)
    marked = f". SCALED, not the paper's protocol: {short}" if short else ""
    return f"{reproduction.table.title}{marked}"


def _head(reproduction: Reproduction) -> dict[str, Any]:
    return {
        "format": 1,
        "table": reproduction.table.name,
        "title": _title(reproduction),
        "scale": asdict(reproduction.scale),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance.describe(),
        "workers": reproduction.workers,
        "units": UNITS,
        "data": {data.name: provenance.fingerprint(data) for data, _ in reproduction.groups},
    }


def _write(
    reproduction: Reproduction,
    head: dict[str, Any],
    found: Mapping[Recipe, Mapping[int, Found]],
    seconds: float,
) -> Path:
    """Write the current table; called after each run, so that no finished run is lost."""
    table = reproduction.table
    done, path = lines(table, found), reproduction.out / f"{table.name}.md"
    count = sum(len(of_run) for of_run in found.values())
    content = head | {
        "complete": count == len(reproduction.runs),
        "wall_seconds": seconds,
        "rows": [
            _row(line, found.get(line.row.run, {}), curves=table.picture == "curves")
            for line in done
            if line.row.run
        ],
    }
    files.write_json(path.with_suffix(".json"), content)
    text = f"# {_title(reproduction)}\n\n{paper_table(table, done)}\n{_where(content, found)}\n"
    files.write(path, text.encode())
    return path


def _row(line: Line, found: Mapping[int, Found], *, curves: bool) -> dict[str, Any]:
    return {
        "label": line.row.label,
        "base": line.row.base,
        "paper": dict(line.row.paper),
        "ours": {
            when: {key: asdict(cell) for key, cell in cells.items()}
            for when, cells in line.cells.items()
        },
        "runs": [_summary(found[seed], curve=curves) for seed in sorted(found)],
    }


def _summary(one: Found, *, curve: bool) -> dict[str, Any]:
    """Return a run's result and evaluation, with its curve only if the table shows curves.

    The units are the same for all runs, and stand once at the head of the file.
    """
    result = asdict(one.result)
    if not curve:
        del result["curve"]
    evaluation = {
        when: {name: test for name, test in tests.items() if name != "units"}
        for when, tests in one.evaluation.items()
    }
    return result | {"evaluation": evaluation}


def _where(content: Mapping[str, Any], found: Mapping[Recipe, Mapping[int, Found]]) -> str:
    """Return the line below the table: runs, training time, machine, version and commit."""
    machine, versions = content["machine"], content["versions"]
    seconds = [one.result.seconds for of_run in found.values() for one in of_run.values()]
    part = "" if content["complete"] else "NOT COMPLETE. "
    return (
        f"{part}{len(seconds)} run{'' if len(seconds) == 1 else 's'}, "
        f"{sum(seconds) / 3600:.2f} hours of training in total, "
        f"{max(seconds) / 60:.1f} minutes for the longest run; "
        f"{machine['cpu']}, {machine['cores']} cores, "
        f"PyTorch {versions['torch']}; commit {content['git'] or 'unknown'}."
    )
