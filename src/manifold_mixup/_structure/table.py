"""The table of layers that `find_layers` returns, and the automatic choice from it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeVar, overload

from manifold_mixup import _html
from manifold_mixup._layers import INPUT, is_input
from manifold_mixup._structure.advice import pooling
from manifold_mixup._structure.row import InputRow, LayerRow

# The automatic choice takes hidden layers between these depths, at least this far apart, and as
# near as possible to depths 1/4 and 1/2.
_FIRST, _LATEST, _APART = 0.05, 0.70, 0.05
_QUARTER, _HALF, _BETWEEN = 1 / 4, 1 / 2, 3 / 8
_Row = TypeVar("_Row", LayerRow, InputRow)
# In a network of two or three layers, even the first may end later than that.
_LAST_RESORT = 0.95
# Number of names in the short form of a table.
_NAMED = 4
# Number of carried tensors in a line of a table.
_SHOWN = 3
_HEAD = ("", "layer", "depth", "shape", "why not, or what is mixed too")
_LEGEND = "*: the automatic choice, +: can also be mixed"


@dataclass(frozen=True, repr=False)
class LayerTable(Sequence[LayerRow]):
    """The modules of one forward pass, ordered by when they end: a block after its parts.

    Attributes:
        rows: one for each module that ran, except the model itself.
        inputs: the tensors that were passed to the forward pass.
        idle: names of the modules that did not run; containers such as ``nn.ModuleList`` never do.
        model: class name of the model.
        fake: whether fake tensors could be used; otherwise a copy ran on two rows.
        lead: name of the input whose dimension 0 is the batch.
        once: whether the model runs with one batch size only, so that its structure alone is not
            conclusive.
    """

    rows: tuple[LayerRow, ...]
    inputs: tuple[InputRow, ...]
    idle: tuple[str, ...]
    model: str
    fake: bool
    lead: str = ""
    once: bool = False

    @property
    def cuts(self) -> tuple[LayerRow, ...]:
        """The layers that can be mixed."""
        return tuple(row for row in self.rows if row.cut)

    @property
    def default(self) -> tuple[str, ...]:
        """The automatic choice: the input, if it can be mixed, and two hidden layers.

        The hidden layers come from the outermost level of module names that has two cut points
        between depth 0.05 and 0.70, at least 0.05 apart: the pair nearest to depths ¼ and ½. If no
        level has two, it is the single cut point nearest to ⅜.

        Raises:
            ValueError: no hidden layer of the model can be mixed.
        """
        hidden = choose(self.rows)
        if not hidden:
            raise ValueError(self._nothing_to_choose())
        return (*self._default_input(), *hidden)

    def with_mask(self, mask: str) -> "LayerTable":
        """Return the table for ``ManifoldMixup(..., mask=mask)``, which mixes the mask too.

        Raises:
            ValueError: the forward pass has no such input.
        """
        if all(row.name != mask for row in self.inputs):
            seen = ", ".join(repr(row.name) for row in self.inputs)
            raise ValueError(
                f"mask={mask!r} names no input of this forward pass, whose inputs are {seen}."
            )
        rows = tuple(_cut_with(row, mask) for row in self.rows)
        return replace(self, rows=rows, inputs=tuple(_cut_with(row, mask) for row in self.inputs))

    def without_mask(self) -> str:
        """Return a sentence that names layers after the last reader of the mask; empty if none."""
        rows = [row for row in self.rows if row.cut and not row.mask]
        names = {row.depth: row.name for row in sorted(rows, key=level, reverse=True)}
        named = ", ".join(repr(name) for _, name in sorted(names.items())[:_NAMED])
        return f"\nAfter its last reader no mask is needed: {named}." if named else ""

    @overload
    def __getitem__(self, index: int) -> LayerRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerRow, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerRow | tuple[LayerRow, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        names = [row.name for row in self.cuts]
        named = ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
        return f"<{len(names)} of {len(self)} layers of {self.model} can be mixed: {named}>"

    def __str__(self) -> str:
        return f"{_columns([_HEAD, *self._lines()])}\n{_LEGEND}"

    def _repr_html_(self) -> str:
        return _html.table(_HEAD, self._lines(), f"{self.model}. {_LEGEND}")

    def _lines(self) -> list[tuple[str, ...]]:
        """Return the cells of each row: inputs first, then layers."""
        inputs, hidden = self._default_input(), choose(self.rows)
        lines: list[tuple[str, ...]] = []
        for item in self.inputs:
            mark = _mark(chosen=bool(inputs) and item.cut, cut=item.cut)
            lines.append((mark, f"{INPUT}:{item.name}", "", str(item.shape), _remark(item)))
        for row in self.rows:
            mark = _mark(chosen=row.name in hidden, cut=row.cut)
            lines.append((mark, row.name, f"{row.depth:.3f}", str(row.shape), _remark(row)))
        return lines

    def _default_input(self) -> tuple[str, ...]:
        floating = [row for row in self.inputs if row.kind == "data" and row.floating]
        return (INPUT,) if len(floating) == 1 and floating[0].cut else ()

    def _nothing_to_choose(self) -> str:
        masks = sorted({repr(side) for row in self.rows if _masked(row) for side in row.side})
        text = (
            f"no hidden layer of {self.model} can be chosen: none of its {len(self)} layers is a "
            f"cut point between depth {_FIRST} and {_LATEST}."
        )
        if masks:
            text += f" Some would be, but the side input {', '.join(masks)} is read after them."
            if mask := next((row.mask for row in self if _masked(row) and row.mask), ""):
                text += f" With mask={mask!r} it is mixed too."
        if not masks and (refused := [row for row in self if not row.cut]):
            kind, count = Counter(map(_kind, refused)).most_common(1)[0]
            row = next(row for row in refused if _kind(row) == kind)
            text += f" For {count} of them, such as {row.name!r}: {row.reason}."
        if self._default_input():
            text += f' Mix the input: layers=["{INPUT}"].'
        # Name only the outermost layer of each depth.
        others = {row.depth: row.name for row in sorted(self.cuts, key=level, reverse=True)}
        if others:
            named = ", ".join(f"{name!r} ({depth:.2f})" for depth, name in sorted(others.items()))
            text += f" Cut points elsewhere, with their depths: {named}."
        if not masks and (pair := self._by_order()):
            text += f" By execution order, {pair} would be suitable: name them as layers."
        late = {side for row in self if _masked(row) for side in row.side}
        return text + pooling(self.inputs, tuple(late))

    def _by_order(self) -> str:
        """Name the cut points a quarter and half of the way through, by execution order."""
        places = {row.depth: place for place, row in enumerate(self.rows)}
        last = places.get(self.rows[-1].depth) if self.rows else None
        cuts = [place for place, row in enumerate(self.rows) if row.cut and place != last]
        cuts = [place for place in cuts if 0 < self.rows[place].depth < 1]
        if len(cuts) < 2:
            return ""
        wanted = [share * len(self.rows) for share in (_QUARTER, _HALF)]
        near = [min(cuts, key=lambda place: abs(place - at)) for at in wanted]
        return " and ".join(repr(self.rows[place].name) for place in dict.fromkeys(near))


def _cut_with(row: _Row, mask: str) -> _Row:
    return replace(row, cut=True, reason="") if row.mask == mask else row


def choose(rows: Sequence[LayerRow]) -> tuple[str, ...]:
    """Choose two layers, or one if there are no two, or none if there is no cut point.

    Layers that carry nothing are preferred: less is mixed there.
    """
    # A module named like an input would be mistaken for the model's input.
    rows = [row for row in rows if not is_input(row.name)]
    alone = [replace(row, cut=row.cut and not row.carries) for row in rows]
    return next((pair for pair in map(_choose, (alone, rows)) if len(pair) == 2), _choose(rows))


def _choose(rows: Sequence[LayerRow]) -> tuple[str, ...]:
    inside = [row for row in rows if row.cut and _FIRST <= row.depth <= _LATEST]
    for same in _by_level(inside):
        pairs = [(a, b) for a, b in combinations(same, 2) if b.depth - a.depth >= _APART]
        if pairs:
            a, b = min(pairs, key=lambda pair: _distance(*pair))
            return a.name, b.name
    # If a mask rules out the usual choice, the user has to know: no last resort.
    masked = any(map(_masked, rows))
    later = [row for row in rows if row.cut and _LATEST < row.depth <= _LAST_RESORT and not masked]
    for same in (*_by_level(inside), *_by_level(later)):
        return (min(same, key=lambda row: abs(row.depth - _BETWEEN)).name,)
    return ()


def _kind(row: LayerRow) -> str:
    """Return the part of a reason that other layers share."""
    return row.reason.partition(":")[0]


def _remark(row: LayerRow | InputRow) -> str:
    """Return why a row cannot be mixed, or what is mixed with it."""
    if not row.cut or not row.carries:
        return row.reason
    named = [str(carry) for carry in row.carries]
    more = f", and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return f"with {', '.join(named[:_SHOWN])}{more}"


def level(row: LayerRow) -> int:
    """Return how deeply a layer's name is nested: stages before blocks before layers."""
    return row.name.count(".")


def _by_level(rows: Sequence[LayerRow]) -> list[list[LayerRow]]:
    """Group layers by level, and keep only the last layer to end at each depth."""
    levels = sorted({level(row) for row in rows})
    return [list({row.depth: row for row in rows if level(row) == n}.values()) for n in levels]


def _distance(a: LayerRow, b: LayerRow) -> float:
    return abs(a.depth - _QUARTER) + abs(b.depth - _HALF)


def _masked(row: LayerRow) -> bool:
    """Return whether only a side input keeps a layer from being chosen."""
    return row.bypassed == "side" and not row.cut and _FIRST <= row.depth <= _LATEST


def _mark(*, chosen: bool, cut: bool) -> str:
    return "*" if chosen else "+" if cut else ""


def _columns(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ("  ".join(map(str.ljust, line, widths)) for line in lines)
    return "\n".join(text.rstrip() for text in texts)
