"""The table of layers that `find_layers` returns."""

import functools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, overload

from manifold_mixup import _html
from manifold_mixup._layers import INPUT
from manifold_mixup._masks import is_named_mask, is_side
from manifold_mixup._structure.advice import on_late, on_masks
from manifold_mixup._structure.choice import (
    EARLIEST,
    LATEST,
    Choice,
    choose,
    choose_of_graphs,
    level,
    masked,
)
from manifold_mixup._structure.row import READ, InputRow, LayerRow

_Row = TypeVar("_Row", LayerRow, InputRow)
# Number of names in the short form of a table.
_NAMED = 4
# Number of carried tensors in a line of a table.
_SHOWN = 3
# If graphs are pooled by a function, and by no module.
_POOL = (
    " Let a module pool, such as self.pool, so that its output can be mixed; or attach to the "
    "module after the pooling: ManifoldMixup(model.head, ['input'])."
)
HEAD = ("", "layer", "depth", "shape", "why not, or what is mixed too")


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
        batch_dim: the dimension of the inputs that holds the batch.
        output_dim: that of the outputs, and so of the targets.
        graphs: whether the examples are graphs; the input ``lead`` then holds the graph of each
            node.
        lengths: names of the inputs that may be the length of each example.
        packs: whether the model packs sequences, by their lengths.
        losses: names of the inputs from which the model itself computes a loss.
        mask: name of the padding mask that is mixed too.
    """

    rows: tuple[LayerRow, ...]
    inputs: tuple[InputRow, ...]
    idle: tuple[str, ...]
    model: str
    fake: bool
    lead: str = ""
    once: bool = False
    batch_dim: int = 0
    output_dim: int = 0
    graphs: bool = False
    lengths: tuple[str, ...] = ()
    packs: bool = False
    losses: tuple[str, ...] = ()
    mask: str = ""

    @property
    def cuts(self) -> tuple[LayerRow, ...]:
        """The layers that can be mixed."""
        return tuple(row for row in self.rows if row.cut)

    @property
    def shown(self) -> tuple[LayerRow, ...]:
        """The rows of the printed table: all but single runs that cannot be mixed."""
        return tuple(row for row in self.rows if row.cut or row.run is None)

    @property
    def default(self) -> tuple[str, ...]:
        """The automatic choice: the input, if it can be mixed, and two hidden layers.

        The hidden layers come from the outermost level of module names that has two cut points
        between depth 0.05 and 0.70, at least 0.05 apart: the pair nearest to depths ¼ and ½. If no
        level has two, they may be of different levels. If there are no two by FLOPs, the share of
        the parameters counts in place of the depth, and if there are no two either, the share of
        the operators; see `measure`. If there are no two by any of them, it is the single cut point
        nearest to ⅜. Of a batch of graphs, they are the first layer after the pooling, and the one
        nearest to the middle of the parameters that follow.

        Raises:
            ValueError: no hidden layer of the model can be mixed.
        """
        hidden = self._choice.layers
        if not hidden:
            raise ValueError(self._nothing_to_choose())
        return (*self._default_input(), *hidden)

    @property
    def measure(self) -> str:
        """What the automatic choice went by: ``"FLOPs"``, ``"parameters"`` or ``"order"``."""
        return self._choice.measure

    @functools.cached_property
    def _choice(self) -> Choice:
        return choose_of_graphs(self.rows) if self.graphs else choose(self.rows)

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
        inputs = tuple(_cut_with(row, mask) for row in self.inputs)
        return replace(self, rows=rows, inputs=inputs, mask=mask)

    def advice(self, late: Collection[str]) -> str:
        """Return advice on the inputs that are read after a layer; empty if there is none."""
        known = {*self.losses, *([self.lead] if self.graphs else [])}
        if not self.packs:  # no module receives a mask of which it packs
            known.add(self.mask)
        read = [name for name in late if name not in known]
        as_mask = {row.mask for row in self.rows}
        masks = sorted(name for name in late if is_named_mask(name) and name not in as_mask)
        masks = [] if self.losses else masks
        given = self.inputs, read, self.lengths
        return on_late(*given, packs=self.packs, as_mask=as_mask) or on_masks(masks)

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
        return f"<{len(names)} of {len(self.shown)} layers of {self.model} can be mixed: {named}>"

    def __str__(self) -> str:
        return f"{_columns([HEAD, *self._lines()])}\n{self._legend()}"

    def _repr_html_(self) -> str:
        return _html.table(HEAD, self._lines(), f"{self.model}. {self._legend()}")

    def _legend(self) -> str:
        return f"*: the automatic choice{self.chosen_by()}, +: can also be mixed{self._examples()}"

    def _examples(self) -> str:
        return f"; the examples are the graphs that {self.lead!r} numbers" if self.graphs else ""

    def chosen_by(self) -> str:
        """Return a remark if the automatic choice did not go by FLOPs; otherwise nothing."""
        if self.measure == "FLOPs":
            return ""
        shares = {row.name: getattr(row, self.measure) for row in self}
        named = ", ".join(f"{shares[name]:.2f}" for name in self._choice.layers)
        of = "operators" if self.measure == "order" else "parameters"
        if not named:
            return ""
        if self.graphs:
            return f" (by its share of the parameters, {named})"
        return (
            f" (by its share of the {of}, {named}, since too few layers end between {EARLIEST} and "
            f"{LATEST} of the FLOPs)"
        )

    def _lines(self) -> list[tuple[str, ...]]:
        """Return the cells of each row: inputs first, then layers."""
        inputs, hidden = self._default_input(), self._choice.layers
        lines: list[tuple[str, ...]] = []
        for item in self.inputs:
            mark = _mark(chosen=bool(inputs) and item.cut, cut=item.cut)
            lines.append((mark, f"{INPUT}:{item.name}", "", str(item.shape), remark(item)))
        for row in self.shown:
            mark = _mark(chosen=row.name in hidden, cut=row.cut)
            lines.append((mark, row.name, f"{row.depth:.3f}", str(row.shape), remark(row)))
        return lines

    def _default_input(self) -> tuple[str, ...]:
        floating = [row for row in self.inputs if row.kind == "data" and row.floating]
        if len(floating) != 1 or not floating[0].cut:
            return ()
        # Other inputs may be taken for it, although no output depends on them.
        batched = [row for row in self.inputs if row.floating and row.batch is not None]
        alike = [row for row in batched if not is_side(row.name, None, floating=True)]
        return (INPUT,) if len(alike) < 2 else (f"{INPUT}:{floating[0].name}",)

    def _nothing_to_choose(self) -> str:
        blocked = [row for row in self if masked(row)]
        late = {side for row in blocked for side in row.side}
        masks = sorted(map(repr, late - {self.mask}))
        where = f"between depth {EARLIEST} and {LATEST}"
        where = "before the last parameters" if self.graphs else where
        text = (
            f"no hidden layer of {self.model} can be chosen: none of its {len(self)} layers is a "
            f"cut point {where}."
        )
        if self.losses and masks:
            text += f" Some would be, but {blocked[0].reason}."
        elif masks:
            plural = "s" if len(masks) > 1 else ""
            text += (
                f" Some would be, but the side input{plural} {' and '.join(masks)} "
                f"{'are' if plural else 'is'} read after them"
            )
            mask = next((row.mask for row in blocked if row.mask), "")
            text += f". {self._mixed_too(mask)}" if mask else f"{_fault_of(blocked)}."
        if not masks and (refused := blocked or [row for row in self if not row.cut]):
            kind, count = Counter(map(_kind, refused)).most_common(1)[0]
            row = next(row for row in refused if _kind(row) == kind)
            text += f" For {count} of them, such as {row.name!r}: {row.reason}."
        if self.graphs and self.cuts:
            text += _POOL
        if self._default_input():
            text += f' Mix the input: layers=["{self._default_input()[0]}"].'
        # Name only the outermost layer of each depth.
        others = {row.depth: row.name for row in sorted(self.cuts, key=level, reverse=True)}
        if others:
            named = ", ".join(f"{name!r} ({depth:.2f})" for depth, name in sorted(others.items()))
            text += f" Cut points elsewhere, with their depths: {named}."
        return text + self.advice(late)

    def _mixed_too(self, mask: str) -> str:
        text = f"With mask={mask!r} it is mixed too"
        if any(row.name == mask and row.kind == "data" for row in self.inputs):  # token ids
            text += ", if its zeros are the padding. If not, pass forward the padding mask"
        return f"{text}."


def _cut_with(row: _Row, mask: str) -> _Row:
    return replace(row, cut=True, reason="") if row.mask == mask else row


def remark(row: LayerRow | InputRow) -> str:
    """Return why a row cannot be mixed, or what is mixed with it."""
    if not row.cut:
        return row.reason
    named = [str(carry) for carry in row.carries]
    more = f", and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    with_them = f"with {', '.join(named[:_SHOWN])}{more}" if named else ""
    places = _places(row) if isinstance(row, LayerRow) else []
    ends = [f"at the end of each sequence in {end.layer!r}" for end in row.ends]
    return "; ".join(filter(None, (*places, with_them, *ends)))


def _places(row: LayerRow) -> list[str]:
    """Return where tensors hold the batch, and of which output if it is not the one shown."""
    shapes, found = dict(row.shapes), dict[str, list[str]]()
    for path, at in row.batch_dims:
        others = found.setdefault(str(at), [])
        if shapes.get(path) != row.shape:
            others.append(repr(path))
    return [f"{at} of {' and '.join(paths)}" if paths else at for at, paths in found.items()]


def _fault_of(rows: Sequence[LayerRow]) -> str:
    """Return why a mask that is read after these layers cannot be mixed too; empty if unknown."""
    faults = [row.reason.partition(READ)[2] for row in rows if len(row.side) == 1]
    return max(faults, key=faults.count, default="")


def _kind(row: LayerRow) -> str:
    """Return the part of a reason that other layers share."""
    return row.reason.partition(":")[0]


def _mark(*, chosen: bool, cut: bool) -> str:
    return "*" if chosen else "+" if cut else ""


def _columns(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ("  ".join(map(str.ljust, line, widths)) for line in lines)
    return "\n".join(text.rstrip() for text in texts)
