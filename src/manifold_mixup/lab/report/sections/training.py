"""The section of the report on training curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manifold_mixup.lab.evaluate.statistics import spread
from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.sections.section import Grid, Methods, Number, Section, embedded
from manifold_mixup.lab.report.table import spread_text

_FIRST_LINES = 12  # rows of a table of epochs; longer trainings are thinned out


def curves(methods: Methods) -> Section:
    """Return the test error and NLL by epoch."""
    results = {name: [item.result for item in items] for name, items in methods.items()}
    grids = [
        _curve_grid(results, "Test error, %", lambda epoch: epoch.error, 2),
        _curve_grid(results, "Test NLL, nats", lambda epoch: epoch.nll, 3),
    ]
    return Section(
        "training",
        "Training",
        "Mean over the seeds, with a band of ± one standard deviation.",
        pictures=[
            (embedded(plots.curve_picture(results, what)), f"{title} of every method by epoch.")
            for what, (title, _) in plots.CURVES.items()
        ],
        numbers=grids,
    )


def _curve_grid(
    results: Mapping[str, Sequence[Any]], caption: str, value: Callable[[Any], float], digits: int
) -> Grid:
    longest = max(len(result.curve) for runs in results.values() for result in runs)
    step = max(1, longest // _FIRST_LINES)
    epochs = [*range(step, longest, step), longest]
    rows = []
    for epoch in epochs:
        cells = []
        for runs in results.values():
            values = [
                value(result.curve[epoch - 1]) for result in runs if len(result.curve) >= epoch
            ]
            cells.append(Number(spread_text(spread(values), digits) if values else ""))
        rows.append((f"epoch {epoch}", cells))
    return Grid(caption, list(results), rows)
