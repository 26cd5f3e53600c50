"""Gathering the finished runs of a report from any folders."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manifold_mixup.lab.paper.numbers import EvaluatedRun, Runs
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes import generated
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.rows import sort_key, table
from manifold_mixup.lab.runs.evaluation import is_outdated
from manifold_mixup.lab.runs.folder import RECIPE, RESULT, data_fingerprint, finished
from manifold_mixup.lab.runs.result import Result

_HEAD = {"data", "examples", "seed", "units"}  # of an evaluation, beside its parts


@dataclass(frozen=True)
class Item:
    """A finished run.

    Attributes:
        folder: its folder.
        result: its result.
        evaluation: the results of `evaluate` for its last epoch, by part.
        examples: the number of test examples of each part.
        origin: machine, versions and commit.
        row: what it shares with the other seeds of its row.
        outdated: the parts of the evaluation that an earlier version wrote.
    """

    folder: Path
    result: Result
    evaluation: Mapping[str, Any]
    examples: Mapping[str, int]
    origin: Mapping[str, Any]
    row: Recipe
    outdated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gathered:
    """Finished runs on one data set.

    Attributes:
        items: the runs, in the order of rows and seeds.
        table: a row for each recipe, compared with a recipe without mixing for the same model.
        runs: the runs by recipe and by seed.
        unfinished: folders of runs that are not finished.
        spirals: the runs on two spirals that `compare` trains beside those on another data set.
    """

    items: tuple[Item, ...]
    table: Table
    runs: Runs
    unfinished: tuple[Path, ...]
    spirals: tuple[Item, ...] = ()

    def of(self, row: Row) -> list[Item]:
        """Return the runs of a row, by seed."""
        return [item for item in self.items if item.row == row.run]


def gather(places: Sequence[Path]) -> Gathered:
    """Read all runs in some folders.

    Args:
        places: folders that are runs or contain runs at any depth.

    Raises:
        FileNotFoundError: a folder does not exist, or there is no finished run.
        ValueError: the runs have different data or examples, or a file is damaged.
    """
    folders = list(dict.fromkeys(folder for place in places for folder in _folders(place)))
    done = [folder for folder in folders if (folder / RESULT).exists()]
    if not done:
        raise FileNotFoundError(
            f"no finished run in {', '.join(map(str, places))}. A finished run is a folder with a "
            f"{RESULT}, written by manifold-mixup train, compare or reproduce."
        )
    items, spirals = _apart_from_spirals([_item(folder) for folder in done])
    _require_same_examples(items)
    items = _without_draws(items)
    _require_one_data_set(items)
    _require_classes(items)
    recipes = sorted({item.row for item in items}, key=sort_key)
    position = {recipe: index for index, recipe in enumerate(recipes)}
    items.sort(key=lambda item: (position[item.row], item.result.run.seed))
    runs = _by_seed(items)
    unfinished = tuple(folder for folder in folders if folder not in done)
    return Gathered(tuple(items), table(recipes), runs, unfinished, spirals)


def _without_draws(items: list[Item]) -> list[Item]:
    """Leave the seed of the data's draw out of the rows if each seed drew its own data."""
    draws = {(item.result.run.seed, generated.split(item.result.run.data)[1]) for item in items}
    if len(draws) == 1 or any(seed != draw for seed, draw in draws):
        return items
    return [
        replace(item, row=replace(item.row, data=_name_without_draw(item.row.data)))
        for item in items
    ]


def _name_without_draw(name: str) -> str:
    return f"{generated.source(name)}, drawn anew for each seed"


def _by_seed(items: Iterable[Item]) -> dict[Recipe, dict[int, EvaluatedRun]]:
    """Return the runs of each row by their seed.

    Raises:
        ValueError: two folders have the same run.
    """
    runs: dict[Recipe, dict[int, EvaluatedRun]] = {}
    places: dict[tuple[Recipe, int], Path] = {}
    for item in items:
        key = item.row, item.result.run.seed
        if key in places:
            raise ValueError(
                f"two folders have the same run: {places[key]} and {item.folder}. Leave out one."
            )
        places[key] = item.folder
        runs.setdefault(item.row, {})[item.result.run.seed] = EvaluatedRun(item.result, {})
    return runs


def _folders(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder {place}. Give a folder that contains runs.")
    yield from sorted(path.parent for path in place.rglob(RECIPE))


def _item(folder: Path) -> Item:
    result = finished(folder)
    if result is None:
        raise FileNotFoundError(f"the run in {folder} is not finished.")
    evaluation, examples, old = dict[str, Any](), dict[str, int](), dict[str, bool]()
    for path in sorted(
        folder.glob("evaluation-last-*.json"), key=lambda path: path.stat().st_mtime
    ):
        stored = _read(path)
        parts = stored.get("evaluation")
        if not isinstance(parts, dict):
            raise ValueError(
                f"{path} is damaged (it has no evaluation). Delete it, or leave out its run."
            )
        evaluation |= parts
        examples |= dict.fromkeys(parts, parts.get("examples", 0))
        old |= dict.fromkeys(parts.keys() - _HEAD, is_outdated(stored))
    content = _read(folder / RESULT)
    origin = {name: content.get(name) for name in ("git", "machine", "versions")}
    row = replace(result.run, seed=0)
    outdated = tuple(sorted(part for part, is_old in old.items() if is_old))
    return Item(folder, result, evaluation, examples, origin, row, outdated)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete it, or leave out its run."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no object). Delete it, or leave out its run.")
    checked: dict[str, Any] = content
    return checked


def _apart_from_spirals(items: list[Item]) -> tuple[list[Item], tuple[Item, ...]]:
    """Return the runs, and apart the spirals that a comparison trained beside other data."""
    spirals = [item for item in items if item.result.run.method.startswith("spirals, ")]
    others = [item for item in items if item not in spirals]
    return (others, tuple(spirals)) if others else (items, ())


def _require_one_data_set(items: Iterable[Item]) -> None:
    folders = {item.row.data: item.folder for item in items}
    if len(folders) > 1:
        listed = "; ".join(f"{data} in {folder}" for data, folder in folders.items())
        raise ValueError(
            f"the runs have different data: {listed}. Make one report per data set, from the "
            f"folders of its runs."
        )


def _require_same_examples(items: Iterable[Item]) -> None:
    """Raise a `ValueError` if runs that name the same data and subset had other examples.

    Only runs of one machine are compared, since processors round generated data differently.
    """
    first: dict[tuple[Any, ...], Item] = {}
    for item in items:
        run, machine = item.result.run, item.origin["machine"] or {}
        subset = (run.data, run.examples, run.per_class, run.imbalance, run.ict_weight > 0)
        other = first.setdefault((*subset, machine.get("cpu")), item)
        if data_fingerprint(item.folder) != data_fingerprint(other.folder):
            raise ValueError(
                f"the runs in {other.folder} and {item.folder} both name the data {run.data!r}, "
                f"but their examples differ: the file was changed between them, or a search by "
                f"manifold-mixup tune held out others for each seed. Give folders of runs on the "
                f"same examples."
            )


def _require_classes(items: Iterable[Item]) -> None:
    for item in items:
        if item.result.run.regression:
            raise ValueError(
                f"the run in {item.folder} predicts numbers, but reports are about classifiers. "
                f"Use manifold-mixup compare for a table of such runs."
            )
