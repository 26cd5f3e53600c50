"""What `find_layers` found, or a part of it, as lines for people and as JSON for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rich.text import Text

from manifold_mixup._structure.rows import InputRow, LayerRow
from manifold_mixup._structure.table import LayerTable

_HEADER = ("", "layer", "depth", "shape", "why not")
_LONG = 40  # rows, a screen
_STYLES = {"*": "bold green", "+": "", "": "dim"}
_LEGEND = (
    "* what layers=None chooses, + can be mixed as well. depth: share of the FLOPs of the forward "
    "pass that is spent when the layer ends."
)


@dataclass(frozen=True)
class Shown:
    """A table of layers, and which of its rows are shown.

    Attributes:
        model: what the model was asked for by.
        table: all that was found.
        inputs: of the inputs, those that are shown.
        layers: of the layers, those that are shown.
        default: the automatic choice, empty if there is none.
        reason: why there is none; else empty.
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
        model: what the model was asked for by.
        table: what `find_layers` found.
        cuts: only what can be mixed.
        match: only names that fit one of these patterns, whose wildcards stay within one part of a
            name; an input's is ``"input:NAME"``.

    Raises:
        ValueError: no name fits.
    """
    inputs = [row for row in table.inputs if _fits(match, "input", f"input:{row.name}")]
    layers = [row for row in table if _fits(match, row.name)]
    if not inputs and not layers:
        raise ValueError(
            f"--match {' '.join(match)} fits none of the {len(table)} layers of {table.model}, "
            f"such as {table[0].name!r}. A * stands for one part of a name: 'layer1.*' or '*.*'."
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
    """Yield the lines for a terminal: what is chosen stands out, what cannot be mixed steps back.

    Without colours, too, everything can be told.
    """
    rows = [_HEADER, *map(_cells, _marked(shown))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        text = "  ".join(map(str.ljust, cells, widths)).rstrip()
        yield Text(text, style="bold" if cells is _HEADER else _STYLES[cells[0]])
    table = shown.table
    yield Text(f"\n{_LEGEND}")
    yield Text(
        f"{len(table.cuts)} of {len(table)} layers of {table.model} can be mixed{_of(shown)}."
    )
    chosen = ", ".join(shown.default) or f"none, because {shown.reason}"
    yield Text(f"layers=None mixes at: {chosen}")


def as_json(shown: Shown) -> dict[str, Any]:
    """Return the same as a value of plain lists, dicts, strings and numbers."""
    rows = list(_marked(shown))
    return {
        "model": shown.model,
        "class": shown.table.model,
        "default": list(shown.default),
        "reason": shown.reason,
        "inputs": [_plain(mark, row) for mark, row in rows if isinstance(row, InputRow)],
        "layers": [_plain(mark, row) for mark, row in rows if isinstance(row, LayerRow)],
    }


def _fits(patterns: Sequence[str], *names: str) -> bool:
    """Say whether one of the names fits one of the patterns, or there are no patterns."""
    return not patterns or any(_matches(name, one) for name in names for one in patterns)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _marked(shown: Shown) -> Iterator[tuple[str, InputRow | LayerRow]]:
    """Mark what is chosen by ``"*"``, and what can be mixed as well by ``"+"``."""
    for row in shown.inputs:
        chosen = "input" in shown.default and row.cut
        yield "*" if chosen else "+" if row.cut else "", row
    for layer in shown.layers:
        yield "*" if layer.name in shown.default else "+" if layer.cut else "", layer


def _cells(marked: tuple[str, InputRow | LayerRow]) -> tuple[str, ...]:
    mark, row = marked
    if isinstance(row, InputRow):
        return mark, f"input:{row.name}", "", str(row.shape), row.reason
    return mark, row.name, f"{row.depth:.3f}", str(row.shape), row.reason


def _plain(mark: str, row: InputRow | LayerRow) -> dict[str, Any]:
    kind = {"kind": row.kind} if isinstance(row, InputRow) else {"depth": row.depth}
    return {
        "name": row.name,
        "shape": list(row.shape),
        **kind,
        "cut": row.cut,
        "chosen": mark == "*",
        "side": list(row.side),
        "mask": row.mask,
        "reason": row.reason,
    }


def _of(shown: Shown) -> str:
    """Say of a long table how to see the part that matters, and of a part what it is."""
    count, cuts = len(shown.layers), shown.table.cuts
    if count < len(shown.table):
        return "" if shown.layers == cuts else f"; {count} of the {len(shown.table)} are shown"
    return "; --cuts shows them alone" if len(cuts) < count > _LONG else ""
