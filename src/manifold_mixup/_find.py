"""find_layers lists where a model can be mixed; check_layers checks the layers a user names."""

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

from torch import nn

from manifold_mixup._batch_first import require_dimension
from manifold_mixup._layers import ALL_RUNS, INPUT, is_input, module_name, run_name, split_run
from manifold_mixup._outputs import as_paths
from manifold_mixup._structure.choice import level
from manifold_mixup._structure.row import InputRow, LayerRow
from manifold_mixup._structure.table import LayerTable as LayerTable


def find_layers(
    model: nn.Module,
    *args: Any,
    outputs: str | Iterable[str] | None = None,
    batch_dim: int = 0,
    **kwargs: Any,
) -> LayerTable:
    """List the modules of one forward pass, and where Manifold Mixup can be applied.

    A layer can be mixed if and only if everything the outputs depend on passes through it. The
    model is inspected in a dry run: in train mode, with randomness neutralised, with its own hooks,
    and with stand-ins for its tensors (fake tensors if the model allows). Nothing in the model
    changes. Branches that depend on tensor values are seen only as this batch takes them.
    Computation outside PyTorch (in NumPy, in lists) is not seen.

    Args:
        model: the model, wrapped or not.
        *args: positional arguments of the model's forward, one batch.
        outputs: path or paths of the outputs that the loss reads, such as ``"logits"`` or ``"0"``;
            None means all outputs.
        batch_dim: the dimension of the inputs that holds the batch: 1 if time comes first.
        **kwargs: keyword arguments of the model's forward.

    Returns:
        A sequence of rows, one for each module that ran, ordered by when it ends. Its ``default``
        is the automatic choice of layers; printed, it is a table.

    Raises:
        RuntimeError: the model cannot be inspected.
        ValueError: the arguments contain no tensor, or the model returns no such output.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> rows = find_layers(model, torch.ones(2, 4))
        >>> [(row.name, round(row.depth, 2), row.cut) for row in rows]
        [('0', 0.29, True), ('1', 0.86, True), ('2', 1.0, True)]
        >>> rows.default
        ('input', '0', '1')
    """
    from manifold_mixup._inspect import inspect_once  # only an inspection needs it

    require_dimension(batch_dim)
    return inspect_once(model, args, kwargs, outputs=as_paths(outputs), batch_dim=batch_dim)


def check_layers(table: LayerTable, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names in order of execution if all of them can be mixed.

    Args:
        table: the table that `find_layers` returned.
        names: names of modules, ``"input"`` or ``"input:NAME"``.

    Raises:
        TypeError: an input to be mixed is not floating point.
        ValueError: a layer cannot be mixed; the message gives the reason and the nearest cut
            points.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if is_input(name):
            _check_input(table, name)
        else:
            _check_layer(table, name)
    order = {row.name: index for index, row in enumerate(table.rows)}
    return tuple(sorted(names, key=lambda name: order.get(name, -1)))


def _check_layer(table: LayerTable, name: str) -> None:
    index = next((index for index, row in enumerate(table.rows) if row.name == name), None)
    module, run = split_run(name)
    ran = next((row for row in table.rows if row.name == module), None)
    if index is None and ran is not None:
        if run != ALL_RUNS or ran.runs == 1:
            raise ValueError(_no_such_run(name, ran))
        index = next(index for index, row in enumerate(table.rows) if row.name == module)
    if index is None:
        raise ValueError(
            f"layer {name!r} did not run in this forward pass of {table.model}. Name a layer that "
            f"did. A container such as nn.ModuleList has no forward of its own: name its items. If "
            f"Python's random numbers or the data decide whether the layer runs, set check=False."
        )
    row = table.rows[index]
    if not row.cut:
        verb = "is bypassed" if row.bypassed else "cannot be mixed"
        late = row.side if row.bypassed or table.packs else ()  # otherwise not the reason
        raise ValueError(
            f"layer {name!r} {verb}: {row.reason}. {_nearest(table, index)}{table.advice(late)}"
        )


def _no_such_run(name: str, row: LayerRow) -> str:
    module, runs = row.name, row.runs
    if runs == 1:
        return (
            f"layer {name!r} is unknown: {module!r} ran once in this forward pass. Name {module!r}."
        )
    return (
        f"layer {name!r} is unknown: {module!r} ran {runs} times in this forward pass, as "
        f"{run_name(module, 0)!r} to {run_name(module, runs - 1)!r}, with outputs of shape "
        f"{row.shape}. Name one of them."
    )


def expand_runs(table: LayerTable, names: Iterable[str]) -> tuple[str, ...]:
    """Replace ``"module@*"`` by the runs of the module that can be mixed.

    It stays as it is if all runs together can be mixed, and none alone without carrying what the
    others are given; or if nothing can be mixed.
    """
    together = {row.name for row in table}
    expanded: list[str] = []
    for name in names:
        module, run = split_run(name)
        every = [row for row in table if row.run is not None and module_name(row.name) == module]
        cuts = [row.name for row in every if row.cut]
        expanded += cuts if run == ALL_RUNS and cuts and name not in together else [name]
    return tuple(dict.fromkeys(expanded))


def _check_input(table: LayerTable, name: str) -> None:
    row = _meant_input(table, name)
    if not row.floating:
        raise TypeError(
            f"{name!r} cannot be mixed: {row.name!r} is not floating point, and interpolated token "
            f"ids mean nothing. Name the embedding layer instead. {_nearest(table, -1)}"
        )
    if not row.cut:
        alone = " alone" if "still read" in row.reason else ""
        advice = table.advice(row.side) if alone else ""
        raise ValueError(
            f"{name!r} cannot be mixed{alone}: {row.reason}. {_nearest(table, -1)}{advice}"
        )


def _meant_input(table: LayerTable, name: str) -> InputRow:
    """Return the input that ``"input"`` or ``"input:NAME"`` refers to."""
    if name != INPUT:
        named = [row for row in table.inputs if f"{INPUT}:{row.name}" == name]
        if not named:
            seen = ", ".join(repr(row.name) for row in table.inputs)
            raise ValueError(f"this forward pass has no {name!r}: its inputs are {seen}.")
        return named[0]
    data = [row for row in table.inputs if row.kind == "data"]
    floating = [row for row in data if row.floating]
    if len(floating) > 1:
        ways = " or ".join(repr(f"{INPUT}:{row.name}") for row in floating)
        raise ValueError(
            f"'input' is ambiguous: {table.model} has {len(floating)} such inputs. Use {ways}."
        )
    return (floating or data or list(table.inputs))[0]


def rows_of(table: LayerTable, names: Iterable[str]) -> dict[str, LayerRow | InputRow]:
    """Map the names of layers and inputs to their rows, if they have any."""
    names, rows = list(names), {row.name: row for row in table}
    found: dict[str, LayerRow | InputRow] = {name: rows[name] for name in names if name in rows}
    return found | {name: _meant_input(table, name) for name in names if is_input(name)}


def present(table: LayerTable, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of layers that ran, and of inputs that were given."""
    data = any(row.kind == "data" and row.floating for row in table.inputs)
    there = {row.name for row in table} | {f"{INPUT}:{row.name}" for row in table.inputs}
    there |= {INPUT} if data else set()
    return tuple(name for name in names if {name, module_name(name)} & there)


def _nearest(table: LayerTable, index: int) -> str:
    """Return a sentence that names the cut points before and after row number ``index``."""
    # Cut points that carry nothing need no explanation.
    alone = any(row.cut and not row.carries for row in table)
    cut = [row.cut and not (alone and row.carries) for row in table]
    before = list(compress(table.rows[: max(index, 0)], cut))
    after = list(compress(table.rows[index + 1 :], cut[index + 1 :]))
    names = [*_outermost(before, -1), *_outermost(after, 0)]
    if not names:
        return f"{table.model} has no cut point."
    return f"Nearest cut points: {', '.join(map(repr, names))}."


def _outermost(rows: Sequence[LayerRow], index: int) -> list[str]:
    """Return the outermost layer with the same depth as the row at ``index``."""
    same = [row for row in rows if row.depth == rows[index].depth]
    return [min(reversed(same), key=level).name] if same else []
