"""The findings about one module or input: whether it can be mixed, or why not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._positions import Positions

READ = "still read after it"
"""How a reason ends if a mask, or another input that is no state, is read after a layer."""


@dataclass(frozen=True)
class Reader:
    """An argument of a module that is derived from a mask.

    Attributes:
        layer: name of the module.
        path: path of the argument; it begins with 0 for positional and 1 for keyword arguments.
        pools: whether the module pools over positions, so that its output has none.
        weighs: whether the module takes weights in place of booleans: it pools, or only multiplies
            states by the mask.
        early: whether the module also runs before the layer, where the mask is not mixed.
        forbids: whether the module itself forbids attention scores by the mask: it fills them, or
            adds to them, or to fused attention, what it computes from the mask.
        batch_dim: the dimension of the argument that holds the batch.
    """

    layer: str
    path: str
    pools: bool
    weighs: bool = False
    early: bool = False
    forbids: bool = False
    batch_dim: int = 0


@dataclass(frozen=True)
class Carry:
    """A tensor that is mixed where a module receives it after a layer.

    Attributes:
        layer: name of the module.
        path: path of the tensor among its arguments, which begins with 0 for positional and 1 for
            keyword arguments; or in its output.
        source: the layer or input that the tensor comes from, or the module whose code computes it;
            empty for the model itself.
        output: whether it is mixed in the module's output: the module makes states of values that
            cannot be interpolated, such as token ids.
        early: whether the module also runs before the layer, where it is not mixed.
        batch_dim: where the tensor holds the batch; None for dimension 0.
        shape: its shape when the model was inspected.
        positions: its dimensions that are positions; None if they cannot be told.
    """

    layer: str
    path: str
    source: str
    output: bool = False
    early: bool = False
    batch_dim: BatchDim | None = None
    shape: tuple[int, ...] = ()
    positions: Positions | None = None

    def __str__(self) -> str:
        return f"{named(self.source)} in {self.layer!r}"


@dataclass(frozen=True)
class End:
    """A module of whose output the model takes one position of each example: the last token's.

    Attributes:
        layer: name of the module.
        path: path of the tensor in its output, ``(batch, time, ...)``.
    """

    layer: str
    path: str


@dataclass(frozen=True)
class LayerRow:
    """One module of a forward pass.

    Attributes:
        name: its name, as in ``model.named_modules()``, without wrapper parts.
        shape: shape of its (first floating point) output, including the batch dimension.
        depth: fraction of the forward pass's FLOPs done when it ends, 0 to 1.
        parameters: fraction of the parameters used when it ends.
        order: fraction of the operators run when it ends.
        cut: whether everything the outputs depend on passes through it, so that it can be mixed.
        side: names of the side inputs (masks) that are still read after it.
        reason: why it is not a cut point; empty if it is one.
        runs: how many times its module ran in the pass.
        run: which of several runs of the module it is, counted from 0; None otherwise.
        mixed: paths of the tensors in its output that must be mixed: those that reach the model's
            outputs. A plain tensor's path is ``""``.
        bypassed: what bypasses it: ``"data"``, ``"side"`` (only side inputs), or nothing (``""``).
        checkpointed: whether an activation checkpoint recomputes it.
        unmixed: paths of the floating point tensors in its output that are not mixed, because no
            output of the model depends on them.
        in_front: whether it is mixed before the hooks of others on it, which only read its output.
        mask: the side input, if any, that makes this layer a cut point if it is mixed too.
        readers: the modules that read that mask after this layer.
        carries: what else crosses this depth, and is mixed too where later modules receive it.
        batch_dims: the paths of those tensors in its output whose dimension 0 is not the batch, and
            where they hold it.
        ends: the later modules of whose output one position is taken that ids or a mask choose:
            there an example's position is mixed with that of its partner.
        shapes: the paths of the tensors that are mixed, and their shapes when the model was
            inspected.
        positions: the paths of those whose positions can be told, and which dimensions they are.
        plain_outputs: paths of the outputs that the model makes of its inputs without it, with a
            row for each example: integers, such as a mask, and what ``outputs=`` does not name.
    """

    name: str
    shape: tuple[int, ...]
    depth: float
    cut: bool
    side: tuple[str, ...]
    reason: str
    runs: int
    mixed: tuple[str, ...]
    bypassed: str
    checkpointed: bool
    unmixed: tuple[str, ...] = ()
    in_front: bool = False
    mask: str = ""
    readers: tuple[Reader, ...] = ()
    carries: tuple[Carry, ...] = ()
    parameters: float = 0.0
    order: float = 0.0
    batch_dims: tuple[tuple[str, BatchDim], ...] = ()
    ends: tuple[End, ...] = ()
    run: int | None = None
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    positions: tuple[tuple[str, Positions], ...] = ()
    plain_outputs: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether its output alone is mixed, along dimension 0."""
        return not (self.carries or self.ends or self.batch_dims)

    @property
    def folded(self) -> bool:
        """Whether a tensor that is mixed holds several rows of each example at one dimension."""
        return any(at.folded for _, at in self.batch_dims) or any(
            carry.batch_dim is not None and carry.batch_dim.folded for carry in self.carries
        )

    def grouped(self) -> "LayerRow":
        """Return the row for folded tensors in the order of the groups."""
        dims = tuple((path, replace(at, grouped=at.folded)) for path, at in self.batch_dims)
        return replace(self, batch_dims=dims, carries=tuple(map(_grouped, self.carries)))


@dataclass(frozen=True)
class InputRow:
    """One tensor that was passed to the model's forward.

    Attributes:
        name: the parameter's name, followed by the keys inside it: ``"batch.pixel_values"``.
        shape: its shape, including the batch dimension.
        floating: whether it is floating point.
        batch: its batch dimension, 0; None if it has none.
        kind: ``"data"`` (the model learns from it), ``"side"`` (a mask or similar) or
            ``"constant"`` (it has no batch dimension, or no output depends on it).
        cut: whether everything the outputs depend on passes through it, so that it can be mixed.
        side: names of the side inputs that would be read unmixed.
        reason: why it cannot be mixed; empty if it can.
        mask: the side input, if any, that makes this input mixable if it is mixed too.
        readers: the modules that read that mask.
        carries: what else is mixed too, where modules receive it.
        ends: as those of a layer.
        positions: its dimensions that are positions; None if they cannot be told.
        plain_outputs: as those of a layer.
    """

    name: str
    shape: tuple[int, ...]
    floating: bool
    batch: int | None
    kind: str
    cut: bool
    side: tuple[str, ...]
    reason: str
    mask: str = ""
    readers: tuple[Reader, ...] = ()
    carries: tuple[Carry, ...] = ()
    ends: tuple[End, ...] = ()
    positions: Positions | None = None
    plain_outputs: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it alone is mixed."""
        return not (self.carries or self.ends)


def together(earlier: LayerRow | InputRow | None, row: LayerRow | InputRow) -> LayerRow | InputRow:
    """Return a row with what else an earlier batch, which had other inputs, showed to be mixed.

    Args:
        earlier: the row of that batch; None if there is none.
        row: the row of this one.
    """
    if earlier is None or type(earlier) is not type(row):
        return row
    found: dict[str, Any] = {}
    for name in ("readers", "carries", "ends"):
        both = (*getattr(earlier, name), *getattr(row, name))
        found[name] = tuple({_place(one): one for one in both}.values())  # the later of each
    found["plain_outputs"] = tuple(dict.fromkeys((*earlier.plain_outputs, *row.plain_outputs)))
    found["mask"] = row.mask or earlier.mask
    if isinstance(row, LayerRow) and isinstance(earlier, LayerRow):
        found["unmixed"] = tuple(path for path in row.unmixed if path in earlier.unmixed)
        found["mixed"] = tuple(dict.fromkeys((*earlier.mixed, *row.mixed)))
    return replace(row, **found)


def _place(one: Reader | Carry | End) -> tuple[Any, ...]:
    """Return what tells two of a kind apart, whatever their shapes are."""
    return one.layer, one.path, getattr(one, "output", None), getattr(one, "source", None)


def _grouped(carry: Carry) -> Carry:
    at = carry.batch_dim
    return carry if at is None else replace(carry, batch_dim=replace(at, grouped=at.folded))


def named(source: str) -> str:
    """Quote the name of a layer or input, or name a value that the model's own code computes."""
    return repr(source) if source else "a value of the model"


def listed(names: Sequence[str]) -> str:
    """Return names for a message."""
    return " and ".join(map(repr, names))
