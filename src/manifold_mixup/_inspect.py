"""Inspect a model in a dry run: record a forward pass, and describe its modules."""

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import nn

from manifold_mixup._batch_first import called_batch_first
from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._dry_run.neutral import Neutral
from manifold_mixup._dry_run.side_effects import without_collections, without_side_effects
from manifold_mixup._dry_run.stand_ins import plain
from manifold_mixup._graphs import numberings
from manifold_mixup._inputs import leading, named_inputs
from manifold_mixup._layers import module_name, named_layers, unwrap
from manifold_mixup._proof.independence import why_graphs_depend, why_rows_depend
from manifold_mixup._said import remark, said_of_each
from manifold_mixup._structure.advice import may_be_lengths
from manifold_mixup._structure.model_outputs import NOT_FIRST
from manifold_mixup._structure.row import InputRow
from manifold_mixup._structure.rows import RowBuilder
from manifold_mixup._structure.shared import rows_of
from manifold_mixup._structure.table import LayerTable
from manifold_mixup._structure.trace import Traces, trace, trace_graphs

# Values of a uniform and a Bernoulli variable for which no layer is dropped, however LayerDrop is
# written. Listed twice, because Python's and NumPy's generators get a new seed each time.
_OTHER_CHANCES = [(0.999, 1.0), (0.999, 0.0), (0.0, 1.0), (0.0, 0.0)] * 2


def inspect_model(
    model: nn.Module,
    names: Iterable[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    mask: str | None = None,
    outputs: Sequence[str] | None = None,
    *,
    batch_dim: int = 0,
) -> LayerTable:
    """Run `find_layers` so that all layers ``names`` run if possible, despite LayerDrop.

    LayerDrop may decide by a random operator, or by Python's or NumPy's generator, so the dry run
    is repeated with other random numbers. A ``mask`` is assumed to be mixed as well.
    """
    names = list(names)
    how: dict[str, Any] = {"names": names, "mask": mask, "outputs": outputs, "batch_dim": batch_dim}
    table = inspect_once(model, args, kwargs, **how)
    layers = named_layers(model)
    idle = [name for name in map(module_name, names) if name in table.idle]
    if not idle or any(_is_container(layers[name]) for name in idle):
        return table  # all ran, or one is a container, which never runs
    with without_side_effects(model):
        for seed, neutral in enumerate(_OTHER_CHANCES):
            random.seed(seed)
            if (numpy := sys.modules.get("numpy")) is not None:
                numpy.random.seed(seed)
            with suppress(NotTraceable):
                another = inspect_once(model, args, kwargs, Neutral(*neutral), **how)
                if not set(idle) & set(another.idle):
                    return another
    return table


def _is_container(module: nn.Module) -> bool:
    return getattr(type(module), "forward", None) is nn.Module.forward


def inspect_once(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    neutral: Neutral | None = None,
    *,
    names: Iterable[str] = (),
    mask: str | None = None,
    outputs: Sequence[str] | None = None,
    batch_dim: int = 0,
) -> LayerTable:
    """Record a forward pass and describe its modules.

    Args:
        model: the model.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        neutral: neutralises random operators; a new one by default.
        names: layers whose rows are wanted, however often their modules run.
        mask: name of a padding mask that is mixed too.
        outputs: paths of the outputs that the loss reads; None means all.
        batch_dim: the dimension of the inputs that holds the batch.
    """
    with called_batch_first(model, args, kwargs, batch_dim, mask) as call:
        table = _inspect(model, call.args, call.kwargs, neutral, names, mask, outputs)
    if not batch_dim:
        return table
    inputs = (
        _with_batch_at(row, batch_dim) if row.name in call.moved else row for row in table.inputs
    )
    dim = 0 if call.output_dims == {0} else batch_dim
    return replace(table, inputs=tuple(inputs), batch_dim=batch_dim, output_dim=dim)


def _with_batch_at(row: InputRow, dim: int) -> InputRow:
    """Return the row of an input that was moved, with its own shape."""
    shape = (*row.shape[1 : dim + 1], row.shape[0], *row.shape[dim + 1 :])
    positions = row.positions and row.positions.moved(0, dim)
    batch = None if row.batch is None else dim
    return replace(row, shape=shape, batch=batch, positions=positions)


def _inspect(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    neutral: Neutral | None,
    names: Iterable[str],
    mask: str | None,
    outputs: Sequence[str] | None,
) -> LayerTable:
    kind = type(unwrap(model)).__name__
    try:
        traces = trace(model, args, kwargs, neutral or Neutral(), mask)
    except NotTraceable as error:
        raise type(error)(f"{kind} cannot be inspected: {error}") from error
    traces, builder = _with_row_builder(traces, model, args, kwargs, neutral, mask, outputs)
    ran = {run.layer for run in traces.first.runs}
    with without_collections():
        rows = tuple(rows_of(builder, traces.first, {module_name(name) for name in names}))
        inputs = tuple(map(builder.input_row, range(len(traces.first.inputs))))
    table = LayerTable(
        rows=rows,
        inputs=inputs,
        idle=tuple(layer for layer in traces.layers if layer not in ran),
        model=kind,
        fake=traces.fake,
        lead=traces.lead,
        once=traces.second is None and not traces.graphs,
        graphs=traces.graphs,
        lengths=tuple(_lengths(model, args, kwargs)),
        packs=builder.packs,
        losses=builder.losses,
    )
    return table if mask is None else table.with_mask(mask)


def _with_row_builder(
    traces: Traces,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    neutral: Neutral | None,
    mask: str | None,
    outputs: Sequence[str] | None,
) -> tuple[Traces, RowBuilder]:
    """Return the recordings, as of graphs if the rows are no examples, and the builder of rows."""
    builder, depend = RowBuilder(traces, mask, outputs), False
    if not builder.fault and (traces.second is None or builder.doubts):
        builder.fault = why_rows_depend(
            model, args, kwargs, lead=traces.lead, outputs=outputs, doubts=builder.doubts
        )
        depend = bool(builder.fault)
    if builder.fault and mask is None:
        graphs = _as_graphs(model, args, kwargs, neutral or Neutral(), outputs)
        if graphs:
            return graphs
    if depend or builder.fault.startswith(NOT_FIRST):
        rows = leading(named_inputs(unwrap(model), args, kwargs), traces.lead).shape[0]
        builder.fault += _SORTED if depend and builder.packs else ""
        builder.fault += remark(said_of_each(unwrap(model), args, kwargs, rows))
    return traces, builder


_SORTED = ". If forward packs sequences: with enforce_sorted=False, they may come in any order"


def _lengths(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[str]:
    """Name the inputs that may be the length of each example."""
    inputs = named_inputs(unwrap(model), args, kwargs)
    for name, tensor in inputs:
        if may_be_lengths(name, plain(tensor), [other for _, other in inputs]):
            yield name


def _as_graphs(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    neutral: Neutral,
    outputs: Sequence[str] | None,
) -> tuple[Traces, RowBuilder] | None:
    """Look at a batch as one of graphs, if an input numbers them and an output has their rows."""
    found = None
    inputs = [(name, plain(tensor)) for name, tensor in named_inputs(unwrap(model), args, kwargs)]
    for lead in numberings(inputs):
        with suppress(NotTraceable):
            traces = trace_graphs(model, args, kwargs, neutral, lead)
            builder = RowBuilder(traces, None, outputs)
            if builder.fault:
                continue
            builder.fault = why_graphs_depend(model, args, kwargs, lead=lead, outputs=outputs)
            found = found if found and builder.fault else (traces, builder)
            if not builder.fault:
                break
    return found
