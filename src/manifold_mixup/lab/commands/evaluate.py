"""``manifold-mixup evaluate``: the test batteries on the weights of a finished run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.progress import Progress

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data, shifted
from manifold_mixup.lab.data.arrays import in_units_of
from manifold_mixup.lab.evaluate import OF_LOGITS, Budget, Reliability, Settings, battery_of, unfit
from manifold_mixup.lab.report.battery_table import battery_table, notes
from manifold_mixup.lab.runs import files, outputs
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.evaluation import When, evaluated, trained
from manifold_mixup.lab.terminal.console import Console


@dataclass(frozen=True)
class Options:
    """Evaluate a finished run on clean, attacked, deformed and corrupted test sets, and more.

    The results are kept in the run's folder as JSON. Tests that were run before are not repeated.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of a run that manifold-mixup train, compare or reproduce wrote."""
    battery: tuple[str, ...] = ()
    """Tests to run: clean, calibration, selective, attacks, strength, robustness, apgd,
    deformations, corruptions, cifar-c, cifar-10.1, outliers, neighbours, interpolation, confidence,
    flatness, collapse, spectra, plane. By default, all that suit the data set except robustness,
    apgd and spectra."""
    when: Literal["last", "best"] = "last"
    """Epoch whose weights are evaluated."""
    tested: int | None = None
    """Number of test examples, a fixed random subset; by default all."""
    attacked: int = 200
    """Number of these that robustness and apgd attack."""
    steps: int = 100
    """Steps of APGD in each restart."""
    restarts: int = 5
    """Random starts of APGD."""
    queries: int = 1000
    """Queries of Square."""
    cifar_c: Path | None = None
    """Folder of CIFAR-10-C or CIFAR-100-C as published; adds the test cifar-c."""
    cifar_10_1: Path | None = None
    """Folder of CIFAR-10.1 as published; adds the test cifar-10.1."""
    unknown: tuple[str, ...] = ()
    """Data sets that serve as outliers, such as svhn cifar-100."""
    seed: int = 0
    """Seed of all random choices in the tests."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""


@dataclass(frozen=True)
class Evaluation:
    """Options that have been checked, ready for the tests."""

    folder: Path
    data: Data
    tested: Data
    battery: tuple[str, ...]
    settings: Settings
    when: When
    left_out: tuple[str, ...]


def prepare(options: Options) -> Evaluation:
    """Check the options before the tests, cheap checks first.

    Raises:
        ValueError: a test or a data set is unknown.
        OSError: there is no finished run, or a file cannot be read.
    """
    if options.tested is not None and options.tested < 1:
        raise ValueError(f"--tested is {options.tested}. Expected 1 or more.")
    budget = _budget(options)
    run, root = run_folder.recipe(options.folder), options.root.expanduser()
    data = datasets.load_for(run, root=root)
    tested = _cut(data, options)
    battery = battery_of(options.battery or None, tested)
    battery = tuple(dict.fromkeys((*battery, *_parts_with_files(options))))
    layers = _layers(options, data, battery)
    published = _published_sets(options, data, battery)
    unknown = {name: _images(name, data, options) for name in options.unknown}
    files.writable_folder(options.folder)
    return Evaluation(
        folder=options.folder,
        data=data,
        tested=tested,
        battery=battery,
        settings=Settings(
            seed=options.seed,
            budget=budget,
            unknown=unknown,
            **published,
            layers=layers,
        ),
        when=options.when,
        # Which tests suit a shape is no news, but that there are too few examples is.
        left_out=() if options.battery else _too_few(tested),
    )


def run(evaluation: Evaluation) -> bool:
    """Run the tests, print the numbers, write the reliability diagram; return True."""
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)

        results = evaluated(
            evaluation.folder,
            evaluation.data,
            evaluation.when,
            battery=evaluation.battery,
            settings=evaluation.settings,
            tested=evaluation.tested,
            progress=show,
        )
    title = f"{results['data']}, {results['examples']:,} test examples, {evaluation.when} epoch"
    console.print(title, style="bold", markup=False, highlight=False)
    for part in evaluation.battery:
        console.print(battery_table(part, results[part]))
        for note in notes(results[part]):
            console.print(note, markup=False, highlight=False)
    for why in evaluation.left_out:
        console.print(f"Left out: {why}.", markup=False, highlight=False)
    written = [str(evaluation.folder / "evaluation-*.json")]
    if "clean" in evaluation.battery:
        pictures = _pictures(evaluation, results["clean"][0]["reliability"], title)
        written.extend(map(str, pictures))
    console.print(f"Written: {', '.join(written)}", markup=False, soft_wrap=True)
    return True


def _too_few(tested: Data) -> tuple[str, ...]:
    """Return why tests are left out that need more examples than are tested."""
    return tuple(why for part in ("calibration", "collapse") if (why := unfit(part, tested)))


def _layers(options: Options, data: Data, battery: Sequence[str]) -> tuple[str, ...] | None:
    """Return the layers that tests read, or None if the kept logits are enough.

    Raises:
        ValueError: the weights are not finite.
        OSError: there is no finished run.
    """
    if set(battery) <= set(OF_LOGITS) and (options.folder / outputs.NAME).exists():
        return None
    model = trained(options.folder, data, options.when)
    return models.eligible(run_folder.recipe(options.folder).model, model, data.x)


def _budget(options: Options) -> Budget:
    if options.attacked < 1:
        raise ValueError(f"--attacked is {options.attacked}. Expected 1 or more.")
    return Budget(options.steps, options.restarts, options.queries, options.attacked)


def _parts_with_files(options: Options) -> list[str]:
    """Return the tests whose files were given."""
    given = {"cifar-c": options.cifar_c, "cifar-10.1": options.cifar_10_1}
    return [part for part, folder in given.items() if folder is not None]


def _published_sets(options: Options, data: Data, battery: Sequence[str]) -> dict[str, Any]:
    """Open the files of published test sets.

    Raises:
        ValueError: a test needs files that were not given, or they have another form.
        OSError: files are missing.
    """
    for part, option in (("cifar-c", "--cifar-c"), ("cifar-10.1", "--cifar-10-1")):
        if part in battery and part not in _parts_with_files(options):
            raise ValueError(f"the test {part!r} needs the published files. Give {option} FOLDER.")
    opened: dict[str, Any] = {}
    if options.cifar_c is not None:
        folder = options.cifar_c.expanduser()
        opened["cifar_c"] = shifted.cifar_c(folder, data, count=options.tested)
    if options.cifar_10_1 is not None:
        opened["cifar_10_1"] = shifted.cifar_10_1(options.cifar_10_1.expanduser(), data)
    return opened


def _images(name: str, data: Data, options: Options) -> Any:
    other = datasets.load(name, root=options.root.expanduser())
    if other.x_test.shape[1:] != data.x_test.shape[1:]:
        raise ValueError(
            f"inputs of {other.name} have shape {tuple(other.x_test.shape[1:])}, but those of "
            f"{data.name} have {tuple(data.x_test.shape[1:])}. --unknown needs the same shape."
        )
    return in_units_of(data, _cut(other, options))


def _cut(data: Data, options: Options) -> Data:
    return data if options.tested is None else datasets.take_tested(data, options.tested)


def _pictures(
    evaluation: Evaluation, bins: Mapping[str, Sequence[float]], title: str
) -> list[Path]:
    from manifold_mixup.lab.report import plots  # matplotlib takes a second to import

    count, confidence, accuracy = (bins[name] for name in ("count", "confidence", "accuracy"))
    reliability = Reliability(tuple(map(int, count)), tuple(confidence), tuple(accuracy))
    picture = plots.reliability_picture({"this run": [reliability]}, title=title)
    return plots.save(picture, evaluation.folder / f"reliability-{evaluation.when}")
