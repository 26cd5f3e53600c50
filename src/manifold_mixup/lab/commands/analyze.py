"""``manifold-mixup analyze``: experiments that show why manifold mixup works."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.markdown import Markdown

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import models
from manifold_mixup.lab.analyze import theory
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import FEATURES, Settings
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.spectra_table import Rows, spectra_table
from manifold_mixup.lab.report.theory_table import theory_table
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.evaluation import When, evaluated, trained
from manifold_mixup.lab.terminal.console import Console


@dataclass(frozen=True)
class Theory:
    """Theorem 1 in numbers: the minimum of J for each dimension of the hidden state."""

    classes: int = 10
    """Number of classes d."""
    alpha: float = 2.0
    """Parameter α of the Beta(α, α) distribution of λ."""
    beyond: int = 3
    """Also test up to this many dimensions above d - 1."""
    seeds: int = 3
    """Random initialisations for each dimension."""
    steps: int = 3000
    """Training steps of the perceptrons."""
    out: Path = Path("analyze")
    """Folder for theory.md, .json, .png and .svg."""


@dataclass(frozen=True)
class Spectra:
    """How flat the hidden states of each class are: their singular values, compared between runs.

    Runs that differ only in the seed are averaged. The table also shows how much of the variance
    within classes the classifier reads.
    """

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER ...")]
    """Folders of finished runs, all with the same data set and model."""
    layers: tuple[str, ...] = ()
    """Layers to analyse; by default, the layers where the model is mixed, and features, the input
    of the last linear layer."""
    when: When = "last"
    """Epoch whose weights are used: last or best."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    out: Path = Path("analyze")
    """Folder for spectra.md, .json, .png and .svg."""


@dataclass(frozen=True)
class Options:
    """Study why it works: the paper's theorem in numbers, and the spectra of hidden states."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Theory, tyro.conf.subcommand("theory")]
        | Annotated[Spectra, tyro.conf.subcommand("spectra")]
    ]


@dataclass(frozen=True)
class CheckedSpectra:
    """Options of `Spectra` that have been checked, with the recipes and the data."""

    options: Spectra
    runs: Mapping[Path, Recipe]
    data: Data


def prepare(options: Options) -> Theory | CheckedSpectra:
    """Check the options before any work starts.

    Raises:
        ValueError: a number is out of range, or the runs cannot be compared.
        OSError: a folder has no finished run, or cannot be written.
    """
    what = options.what
    checked = _check_theory(what) if isinstance(what, Theory) else _check_spectra(what)
    files.writable_folder(what.out)
    return checked


def run(prepared: Theory | CheckedSpectra) -> bool:
    """Run the analysis, print and write the results; return True."""
    return _theory(prepared) if isinstance(prepared, Theory) else _spectra(prepared)


def _check_theory(options: Theory) -> Theory:
    for name, least in {"classes": 2, "beyond": 0, "seeds": 1, "steps": 1}.items():
        if (value := getattr(options, name)) < least:
            raise ValueError(f"--{name} is {value}. Expected {least} or more.")
    if not 0 < options.alpha < math.inf:
        raise ValueError(f"--alpha is {options.alpha}. Expected a finite number above 0.")
    return options


def _theory(options: Theory) -> bool:
    from manifold_mixup.lab.report import plots  # matplotlib takes a second to import

    dims = range(1, options.classes + options.beyond)
    with Console().status("minimising J …"):
        points = theory.sweep(
            options.classes, dims, options.alpha, seeds=options.seeds, steps=options.steps
        )
    text = theory_table(points, classes=options.classes, alpha=options.alpha)
    picture = plots.theory_picture(points, classes=options.classes, alpha=options.alpha)
    content = {"settings": _settings(options), "points": [_fields(point) for point in points]}
    _write(options.out / "theory", text, content, picture)
    return True


def _fields(point: theory.Point) -> dict[str, Any]:
    """Return the numbers of a point, without its tensors."""
    numbers = {name: getattr(point, name) for name in ("dim", "least", "affine", "mlp")}
    for name in ("found", "constructed"):
        solution = getattr(point, name)
        numbers[name] = solution and {"rank": solution.rank, "null_space": solution.free}
    return numbers


def _check_spectra(options: Spectra) -> CheckedSpectra:
    if not options.folders:
        raise ValueError("no folder was given. Give the folders of finished runs.")
    runs = {folder: run_folder.recipe(folder) for folder in options.folders}
    first = next(iter(runs.values()))
    for folder, run in runs.items():
        for name in ("data", "model", "width"):
            if getattr(run, name) != getattr(first, name):
                raise ValueError(
                    f"{folder} has {name} {getattr(run, name)!r}, but the first run has "
                    f"{getattr(first, name)!r}. Give runs with the same data set and model."
                )
    data = datasets.load_for(first, root=options.root.expanduser())
    for folder in runs:
        trained(folder, data, options.when)  # raises now if the weights are missing
    return CheckedSpectra(options, runs, data)


def _spectra(checked: CheckedSpectra) -> bool:
    from manifold_mixup.lab.report import plots  # matplotlib takes a second to import

    options, console = checked.options, Console()
    layers: dict[str, dict[str, dict[int, Any]]] = {}
    for folder, run in checked.runs.items():
        with console.status(str(folder)):
            rows = _spectra_of(folder, run, checked)
        for row in rows:
            by_method = layers.setdefault(row["name"], {})
            by_method.setdefault(run.method, {})[run.seed] = row
    run = next(iter(checked.runs.values()))
    title = f"Spectra of hidden states: {run.model} on {checked.data.name}, {options.when} epoch"
    picture = plots.spectra_picture(
        {layer: _values(methods) for layer, methods in layers.items()}, title=title
    )
    content = {"settings": _settings(options), "data": checked.data.name, "layers": layers}
    _write(options.out / "spectra", spectra_table(layers, title=title), content, picture)
    return True


def _spectra_of(folder: Path, run: Recipe, checked: CheckedSpectra) -> list[dict[str, Any]]:
    options, data = checked.options, checked.data
    model = trained(folder, data, options.when)
    chosen = options.layers or (*models.eligible(run.model, model, data.x), FEATURES)
    evaluation = evaluated(
        folder, data, options.when, battery=["spectra"], settings=Settings(spectra=chosen)
    )
    rows: list[dict[str, Any]] = evaluation["spectra"]
    return rows


def _values(methods: Mapping[str, Rows]) -> dict[str, list[dict[str, list[float]]]]:
    return {
        method: [
            {kind: row[kind]["values"] for kind in ("centred", "uncentred")}
            for row in rows.values()
        ]
        for method, rows in methods.items()
    }


def _settings(options: Theory | Spectra) -> dict[str, Any]:
    """Return the options without the paths, which depend on the machine."""
    paths = ("folders", "root", "out")
    return {name: value for name, value in asdict(options).items() if name not in paths}


def _write(path: Path, text: str, content: dict[str, Any], picture: Any) -> None:
    from manifold_mixup.lab.report import plots  # matplotlib takes a second to import

    console = Console()
    page, numbers = path.with_suffix(".md"), path.with_suffix(".json")
    files.write(page, text.encode())
    files.write_json(numbers, {"format": 1, **content, **provenance.describe()})
    console.print(Markdown(text.replace("<br>", " ")))
    paths = [page, numbers, *plots.save(picture, path)]
    console.print(f"Written: {', '.join(map(str, paths))}", markup=False, soft_wrap=True)
