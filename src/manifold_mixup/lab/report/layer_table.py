"""The result of `find_layers`, or a part of it, as lines for a terminal and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rich.text import Text

from manifold_mixup._structure.row import InputRow, LayerRow
from manifold_mixup._structure.table import HEAD, LayerTable, remark

_LONG = 40  # rows that fit on a screen
_STYLES = {"*": "bold green", "+": "", "": "dim"}
_LEGEND = (
    "*: mixed with layers=None. +: can be mixed too. depth: share of the forward pass's FLOPs up "
    "to the end of the layer."
)


@dataclass(frozen=True)
class Shown:
    """A table of layers, and the rows of it to show.

    Attributes:
        model: the name of the model on the command line.
        table: the whole table.
        inputs: the inputs to show.
        layers: the layers to show.
        default: the layers that ``layers=None`` mixes, empty if there are none.
        reason: why there are none, otherwise empty.
    """

    model: str
    table: LayerTable
    inputs: tuple[InputRow, ...]
    layers: tuple[LayerRow, ...]
    default: tuple[str, ...]
    reason: str


def pick(model: str, table: LayerTable, *, cuts: bool = False, match: Sequence[str] = ()) -> Shown:
    """Pick the rows to show.

    Args:
        model: the name of the model on the command line.
        table: the result of `find_layers`.
        cuts: show only layers that can be mixed.
        match: show only names that match one of these patterns, whose wildcards do not match dots;
            the name of an input is ``"input:NAME"``.

    Raises:
        ValueError: no name matches.
    """
    inputs = [row for row in table.inputs if _fits(match, "input", f"input:{row.name}")]
    layers = [row for row in table.shown if _fits(match, row.name)]
    if not inputs and not layers:
        raise ValueError(
            f"--match {' '.join(match)} matches none of the {len(table)} layers of {table.model}, "
            f"such as {table[0].name!r}. A * does not match dots: use 'layer1.*' or '*.*'."
        )
    try:
        default, reason = table.default, ""
    except ValueError as error:
        default, reason = (), str(error)
    return Shown(
        model=model,
        table=table,
        inputs=tuple(row for row in inputs if row.cut or not cuts),
        layers=tuple(row for row in layers if row.cut or not cuts),
        default=default,
        reason=reason,
    )


def lines(shown: Shown) -> Iterator[Text]:
    """Yield the lines for a terminal.

    Default layers are highlighted, and layers that cannot be mixed are dimmed. The marks contain
    the same information for terminals without colour.
    """
    rows = [HEAD, *map(_cells, _marked(shown))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        text = "  ".join(map(str.ljust, cells, widths)).rstrip()
        yield Text(text, style="bold" if cells is HEAD else _STYLES[cells[0]])
    table = shown.table
    yield Text(f"\n{_LEGEND}")
    yield Text(
        f"{len(table.cuts)} of {len(table.shown)} layers of {table.model} can be mixed{_of(shown)}."
    )
    chosen = ", ".join(shown.default) or f"none, because {shown.reason}"
    yield Text(f"layers=None mixes at: {chosen}{shown.table.chosen_by()}")


def as_json(shown: Shown) -> dict[str, Any]:
    """Return the same information as a JSON value."""
    rows = list(_marked(shown))
    return {
        "model": shown.model,
        "class": shown.table.model,
        "default": list(shown.default),
        "reason": shown.reason,
        "measure": shown.table.measure,
        "inputs": [_plain(mark, row) for mark, row in rows if isinstance(row, InputRow)],
        "layers": [_plain(mark, row) for mark, row in rows if isinstance(row, LayerRow)],
    }


def _fits(patterns: Sequence[str], *names: str) -> bool:
    """Return whether one of the names matches one of the patterns, or there are no patterns."""
    return not patterns or any(_matches(name, pattern) for name in names for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _marked(shown: Shown) -> Iterator[tuple[str, InputRow | LayerRow]]:
    """Yield the rows with their marks: ``"*"`` for default layers, ``"+"`` for other valid ones."""
    for row in shown.inputs:
        chosen = "input" in shown.default and row.cut
        yield "*" if chosen else "+" if row.cut else "", row
    for layer in shown.layers:
        yield "*" if layer.name in shown.default else "+" if layer.cut else "", layer


def _cells(marked: tuple[str, InputRow | LayerRow]) -> tuple[str, ...]:
    mark, row = marked
    if isinstance(row, InputRow):
        return mark, f"input:{row.name}", "", str(row.shape), remark(row)
    return mark, row.name, f"{row.depth:.3f}", str(row.shape), remark(row)


def _plain(mark: str, row: InputRow | LayerRow) -> dict[str, Any]:
    shares = ("depth", "parameters", "order")
    kind = (
        {"kind": row.kind}
        if isinstance(row, InputRow)
        else {name: getattr(row, name) for name in (*shares, "run", "runs")}
    )
    return {
        "name": row.name,
        "shape": list(row.shape),
        **kind,
        "cut": row.cut,
        "chosen": mark == "*",
        "side": list(row.side),
        "mask": row.mask,
        "reason": row.reason,
        "carries": [
            {"source": carry.source, "in": carry.layer, "output": carry.output}
            for carry in row.carries
        ],
    }


def _of(shown: Shown) -> str:
    """Return a note if only part of the table is shown, or a hint at --cuts if it is long."""
    count, cuts = len(shown.layers), shown.table.cuts
    if count < len(shown.table.shown):
        return (
            "" if shown.layers == cuts else f"; {count} of the {len(shown.table.shown)} are shown"
        )
    return "; --cuts shows only these" if len(cuts) < count > _LONG else ""
