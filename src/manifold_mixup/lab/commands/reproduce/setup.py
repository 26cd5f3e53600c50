"""The rows, data and runs of a table at the scale that the options ask for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import paper
from manifold_mixup.lab.commands.reproduce.options import Options, check_numbers, scale_of
from manifold_mixup.lab.commands.reproduce.reproduction import Evaluation, Reproduction
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.launch.ray import import_ray
from manifold_mixup.lab.paper.scale import Scale, scaled
from manifold_mixup.lab.paper.tables import Table
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.training.device import find_device, usual_device
from manifold_mixup.lab.training.method import check


def prepare(options: Options) -> Reproduction:
    """Check the options before training, cheap checks first.

    Raises:
        ValueError: an option is out of range, or a name is unknown.
        OSError: a file cannot be read, or the folder cannot be written.
    """
    check_numbers(options)
    if options.on == "ray":
        import_ray()
    table = paper.table(options.table)
    scale = scale_of(options)
    table = scaled(_chosen_rows(table, options.rows), scale)
    device = find_device(options.device or usual_device())
    files.writable_folder(options.out)
    table = _with_options(table, options, scale, str(device))
    groups = list(_groups(table, options, scale))
    for data, group in groups:
        for run in group:
            if run.seed == 0:
                check(run, data)
    count = sum(len(group) for _, group in groups)
    workers = options.workers or (provenance.usable_cores() if device.type == "cpu" else 1)
    evaluate = Evaluation(table, scale.tested) if table.battery else None
    return Reproduction(
        table, scale, groups, evaluate, min(workers, count), options.out, options.on, options.gpus
    )


def _chosen_rows(table: Table, words: Sequence[str]) -> Table:
    """Keep the requested rows and their baselines."""
    if not words:
        return table
    selected = [row for row in table.rows if any(word in row.label for word in words)]
    for word in words:
        if not any(word in row.label for row in selected):
            rows = "; ".join(row.label for row in table.rows)
            raise ValueError(f"no row label of {table.name} contains {word!r}. Rows: {rows}.")
    labels = {row.label for row in selected} | {row.base for row in selected}
    return replace(table, rows=tuple(row for row in table.rows if row.label in labels))


def _with_options(table: Table, options: Options, scale: Scale, device: str) -> Table:
    """Return the table with the settings of this machine, and the test sets that it needs."""
    with_settings = partial(
        replace,
        precision=options.precision,
        compile=options.compile,
        channels_last=options.channels_last,
        device=device,
    )
    rows = (replace(row, run=with_settings(row.run)) if row.run else row for row in table.rows)
    unknown = {name: _test_images(name, options, scale) for name in table.unknown}
    return replace(table, rows=tuple(rows), settings=replace(table.settings, unknown=unknown))


def _test_images(name: str, options: Options, scale: Scale) -> Tensor:
    data, count = datasets.load(name, root=options.root.expanduser()), scale.tested or scale.test
    return (data if count is None else datasets.take_tested(data, count)).x_test


def _groups(table: Table, options: Options, scale: Scale) -> Iterator[tuple[Data, list[Recipe]]]:
    """Yield each data set with its runs: all rows for the first seed, then for the next."""
    recipes = dict.fromkeys(row.run for row in table.rows if row.run is not None)
    kinds = dict.fromkeys((run.data, run.examples, run.per_class) for run in recipes)
    for kind in kinds:
        same = [run for run in recipes if (run.data, run.examples, run.per_class) == kind]
        data = datasets.load_for(same[0], root=options.root.expanduser())
        if scale.test is not None:
            data = datasets.take_tested(data, scale.test)
        yield data, [replace(run, seed=seed) for seed in range(options.seeds) for run in same]
