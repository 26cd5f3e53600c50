"""The section of the report on hidden states by epoch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.sections.section import Grid, Methods, Section, embedded, number
from manifold_mixup.lab.runs import states_log

_LINES = 8  # rows of a table of epochs; more are thinned out

Curves = dict[str, list[list[float]]]
"""The values at the measured epochs, for every seed, by method."""


class _Shown(NamedTuple):
    part: str
    suffix: str  # of the names of its rows, after the layer
    key: str
    title: str
    digits: int


_SHOWN = (
    _Shown("collapse", ", training", "nc1", "NC1, training set", 3),
    _Shown("collapse", ", training", "nc2_angles", "NC2 of angles, training set", 3),
    _Shown("flatness", "", "outside", "% outside the first direction", 1),
    _Shown("flatness", "", "within", "% of the variance within classes", 1),
)


def states(methods: Methods) -> Section | None:
    """Return flatness and neural collapse by epoch, of the runs that measured them."""
    logs = {name: [states_log.read(item.folder) for item in runs] for name, runs in methods.items()}
    epochs = next(
        ([row["epoch"] for row in run] for runs in logs.values() for run in runs if run), []
    )
    if not epochs:
        return None
    # Seeds that were measured at other epochs cannot be averaged with the others.
    comparable = {
        name: [run for run in runs if [row["epoch"] for row in run] == epochs]
        for name, runs in logs.items()
    }
    panels = list(_panels({name: runs for name, runs in comparable.items() if runs}))
    return Section(
        "states-by-epoch",
        "Hidden states by epoch",
        "Neural collapse of the training set and flatness of the test set while the networks are "
        "trained, of at most 5,000 examples each; the sections on flatness and neural collapse "
        "define them. NC1 and NC2 are 0 for full collapse. Mean over the seeds, with a band of "
        "± one standard deviation.",
        pictures=[
            (
                embedded(plots.states_curve_picture(epochs, curves, title=title)),
                f"{title} of every method by epoch.",
            )
            for title, curves, _ in panels
        ],
        numbers=[_grid(title, epochs, curves, digits) for title, curves, digits in panels],
    )


def _panels(runs: Mapping[str, list[list[dict[str, Any]]]]) -> Iterator[tuple[str, Curves, int]]:
    """Yield the title, the curves and the digits of each picture: a measure at a layer."""
    first = next(iter(runs.values()))[0][0]
    for shown in _SHOWN:
        names = [row["name"] for row in first[shown.part]]
        for name in (name for name in names if name.endswith(shown.suffix)):
            curves = {
                method: [[_value(row, shown, name) for row in run] for run in seed_runs]
                for method, seed_runs in runs.items()
            }
            layer = name.removesuffix(shown.suffix)
            yield f"{shown.title}, at {layer}", curves, shown.digits


def _value(row: Mapping[str, Any], shown: _Shown, name: str) -> float:
    value = next((other[shown.key] for other in row[shown.part] if other["name"] == name), None)
    return float("nan") if value is None else float(value)


def _grid(title: str, epochs: Sequence[int], curves: Curves, digits: int) -> Grid:
    step = max(1, len(epochs) // _LINES)
    shown = [*range(0, len(epochs) - 1, step), len(epochs) - 1]
    rows = [
        (
            f"epoch {epochs[k]}",
            [number([curve[k] for curve in runs], digits) for runs in curves.values()],
        )
        for k in shown
    ]
    return Grid(title, list(curves), rows)
