"""The picture of a paper's table, drawn from finished runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import features
from manifold_mixup.lab.evaluate.plane import hidden_plane, input_plane
from manifold_mixup.lab.paper.numbers import Runs
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report import plots
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.evaluation import trained

_SPREAD = 70  # points per axis of the grid of inputs whose hidden states are drawn


def draw(
    table: Table, runs: Runs, data: Mapping[str, Data], folder: Path, *, title: str
) -> plots.Picture:
    """Draw the picture of a table from its finished runs.

    Args:
        table: the table.
        runs: the finished runs.
        data: the data sets by name.
        folder: the parent of the runs' folders.
        title: the title of the picture.
    """
    if table.picture == "plane":
        return _plane(table, runs, data, folder, title)
    if table.picture == "states":
        return _states(table, runs, data, folder, title)
    if table.picture == "spectra":
        return _spectra(table, runs, title)
    results = {
        row.label: [run.result for run in runs[row.run].values()]
        for row in table.rows
        if row.run is not None and row.run in runs
    }
    return plots.curve_picture(results, "train_loss", title=title)


def _first(table: Table, runs: Runs) -> Iterator[tuple[Row, Recipe]]:
    """Yield every row with the run of its first finished seed."""
    for row in table.rows:
        if row.run is not None and (by_seed := runs.get(row.run)):
            yield row, by_seed[min(by_seed)].result.run


def _plane(
    table: Table, runs: Runs, data: Mapping[str, Data], folder: Path, title: str
) -> plots.Picture:
    (layer,) = table.settings.spectra or ()
    views = {
        row.label: plane_view(folder / run_folder.folder_name(run), data[run.data], layer)
        for row, run in _first(table, runs)
    }
    return plots.plane_picture(views, title=title)


def _states(
    table: Table, runs: Runs, data: Mapping[str, Data], folder: Path, title: str
) -> plots.Picture:
    (layer,) = table.settings.spectra or ()
    groups: dict[str, dict[str, plots.Points]] = {}
    for row, run in _first(table, runs):
        dataset = data[run.data]
        states = features(
            trained(folder / run_folder.folder_name(run), dataset), dataset.x_test, layer=layer
        )
        groups.setdefault(row.group, {})[row.name] = (
            states.double().cpu().numpy(),
            dataset.y_test.numpy(),
        )
    return plots.states_picture(groups, title=title)


def plane_view(folder: Path, data: Data, layer: str) -> plots.View:
    """Return the predictions of a finished run over the plane and over the states of a layer.

    Args:
        folder: the run's folder.
        data: points in the plane, of two classes.
        layer: the name of a layer of two units.
    """
    model = trained(folder, data)
    spread = input_plane(model, data.x, side=_SPREAD).points
    return plots.View(
        inputs=input_plane(model, data.x),
        points=data.x.double().numpy(),
        y=data.y.numpy(),
        hidden=hidden_plane(model, spread, layer),
        states=features(model, data.x, layer=layer).double().cpu().numpy(),
        spread=features(model, spread, layer=layer).double().cpu().numpy(),
    )


def input_view(folder: Path, data: Data) -> plots.InputView:
    """Return the predictions of a finished run over the plane.

    Args:
        folder: the run's folder.
        data: points in the plane, of two classes.
    """
    plane = input_plane(trained(folder, data), data.x)
    return plots.InputView(plane, data.x.double().numpy(), data.y.numpy())


def _spectra(table: Table, runs: Runs, title: str) -> plots.Picture:
    """Draw the singular values of the last epoch, with a panel for each group of rows."""
    (layer,) = table.settings.spectra or ()
    groups: dict[str, dict[str, list[dict[str, list[float]]]]] = {}
    for row in table.rows:
        for seed_run in (runs.get(row.run, {}) if row.run else {}).values():
            (state,) = (
                layer_row
                for layer_row in seed_run.evaluation["last"]["spectra"]
                if layer_row["name"] == layer
            )
            values = {kind: state[kind]["values"] for kind in ("centred", "uncentred")}
            groups.setdefault(row.group, {}).setdefault(row.name, []).append(values)
    return plots.spectra_picture(groups, title=title)
