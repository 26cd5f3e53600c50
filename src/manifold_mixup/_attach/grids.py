"""Where the tensors of each layer hold positions, for ways of mixing that weigh them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from manifold_mixup._blend import (
    Align,
    Blend,
    PatchUp,
    Way,
    at_layer,
    dims_at,
    has_positions,
    ways_of,
)
from manifold_mixup._holes import Holes
from manifold_mixup._plan import MixPlan, Weight, unchecked
from manifold_mixup._positions import Positions
from manifold_mixup._structure.row import Carry, InputRow, LayerRow, named
from manifold_mixup._transport import Aligned
from manifold_mixup._weigh.place import Place, least_grid


class Grids:
    """The positions of the layers, and the grid on which each is cut.

    Args:
        blend: the ways of mixing.

    Attributes:
        faults: for each layer that was inspected and cannot be cut, the reason.
    """

    def __init__(self, blend: Blend) -> None:
        self.blend = blend
        self.faults: dict[str, str] = {}
        self._too_small: set[str] = set()  # those whose only fault is the size of a block
        self._places: dict[str, dict[str, Place]] = {}
        self._carried: dict[str, dict[Carry, Place]] = {}

    def _ways(self, layer: str) -> tuple[Way, ...]:
        return ways_of(at_layer(self.blend, layer))

    def places(self, layer: str) -> Mapping[str, Place]:
        """Map the paths of a layer's tensors to where they hold positions."""
        dims = dims_at(self.blend, layer)
        if layer in self._places or dims is None:
            return self._places.get(layer, {})
        return {"": Place(Positions(dims), (1,) * len(dims))}  # it has not been inspected

    def place(self, layer: str, path: str) -> Place | None:
        """Return where one of a layer's tensors holds positions, if that is known."""
        return self.places(layer).get(path)

    def carried(self, layer: str) -> Mapping[Carry, Place]:
        """Map what is carried past a layer to where it holds positions, if it has any."""
        return self._carried.get(layer, {})

    def record_row(self, layer: str, row: LayerRow | InputRow) -> None:
        """Store where the tensors that are mixed at a layer hold positions."""
        self.faults.pop(layer, None)
        self._too_small.discard(layer)
        own, carried = self._mixed_tensors(layer, row), _of_carries(row)
        fault = _fault_of_row(row) or _fault_of(own) or _fault_of_batch(row, own)
        axes = {positions.axes for positions, _ in own.values() if positions}
        if not fault and len(axes) > 1:
            fault = "its tensors have different numbers of axes"
        if not fault and carried and any(isinstance(way, Align) for way in self._ways(layer)):
            fault = "other tensors with positions are mixed with it, which Align cannot move too"
        if fault:
            self._places[layer], self._carried[layer] = {}, {}
            if any(map(has_positions, self._ways(layer))):
                self.faults[layer] = fault
            return
        # what has other positions than the state is interpolated
        carried = {carry: each for carry, each in carried.items() if each[0].axes in axes}
        sides = [_sides(*each) for each in (*own.values(), *carried.values())]
        grid = least_grid(sides)
        if grid is None:
            if any(map(has_positions, self._ways(layer))):
                self.faults[layer] = (
                    f"it is mixed with other tensors, whose sides {sides} do not divide"
                )
            return
        self._require_block(layer, grid)
        several = len(sides) > 1
        self._places[layer] = {path: _place(*each, grid, several) for path, each in own.items()}
        self._carried[layer] = {key: _place(*each, grid, several) for key, each in carried.items()}

    def _mixed_tensors(
        self, layer: str, row: LayerRow | InputRow
    ) -> dict[str, "_PositionsAndShape"]:
        """Map the paths of a layer's mixed tensors to their positions and shapes."""
        dims = dims_at(self.blend, layer)
        if isinstance(row, InputRow):
            given = row.positions if dims is None else Positions(dims)
            return {"": (given, row.shape)}
        found, shapes = dict(row.positions), dict(row.shapes)
        return {
            path: (
                found.get(path) if dims is None else Positions(dims),
                shapes.get(path, row.shape),
            )
            for path in row.mixed
        }

    def _require_block(self, layer: str, grid: tuple[int, ...]) -> None:
        for way in self._ways(layer):
            if isinstance(way, PatchUp) and way.block > min(grid):
                self.faults[layer] = (
                    f"it has sides of {' × '.join(map(str, grid))} positions, fewer than the block "
                    f"of {way.block}"
                )
                self._too_small.add(layer)

    def mixable(self, rows: Mapping[str, LayerRow | InputRow]) -> tuple[str, ...]:
        """Return those of some layers that can be mixed by the ways.

        Args:
            rows: their rows.
        """
        for name, row in rows.items():
            self.record_row(name, row)
        return tuple(name for name in rows if name not in self.faults)

    def as_weights(self, plan: MixPlan) -> MixPlan:
        """Return a plan of one λ for all that mixes by weights, as the ways here do.

        At λ = 0 the whole state is in the box, or in holes.

        Args:
            plan: a plan of the proof.
        """
        places = list(self.places(plan.layer).values())
        ways = [way for way in self._ways(plan.layer) if has_positions(way)]
        if not ways or not places or plan.weight is not None:
            return plan
        lam = plan.lam.float()
        if isinstance(ways[0], Align):  # the side that does not count is moved
            weight: Weight = Aligned(bool(lam < 0.5), ways[0].epsilon, 1)
        elif any(isinstance(way, PatchUp) for way in ways):
            weight = Holes(1, math.inf, soft=bool(lam), key=0)
        else:
            weight = lam.expand(1, *(1 for _ in range(places[0].positions.axes)))
            weight = weight if 0 < lam < 1 else weight.bool()
        how: dict[str, Any] = {"label": lam, "repeats": plan.repeats, "noise": plan.noise}
        return unchecked(plan.layer, lam, plan.perm, weight=weight, **how)

    def require_mixable(self, layers: Iterable[str]) -> None:
        """Raise ValueError if one of the layers cannot be mixed by positions.

        Args:
            layers: the eligible layers.
        """
        bad = [name for name in layers if name in self.faults]
        if bad:
            raise ValueError(self._refusal({name: self.faults[name] for name in bad}))

    def why_not_mixable(self, layers: Iterable[str]) -> dict[str, str]:
        """Map those of some layers that cannot be mixed by the ways to the reason.

        Args:
            layers: the layers, inspected or not.
        """
        unknown = "its positions are not known"
        return {
            name: self._refusal({name: self.faults.get(name, unknown)})
            for name in layers
            if name in self.faults
            or (any(map(has_positions, self._ways(name))) and not self.places(name))
        }

    def _refusal(self, bad: Mapping[str, str]) -> str:
        found = [way for name in bad for way in self._ways(name) if has_positions(way)]
        ways = " or ".join(dict.fromkeys(type(way).__name__ for way in found))
        way_out = (
            f"Choose layers with positions, or name the dimensions that are positions in "
            f"{ways}(dims=...), as (2, 3) for (batch, channels, height, width)."
        )
        if bad.keys() <= self._too_small:
            way_out = f"Choose other layers, or a smaller odd block: {ways}(block=...)."
        listed = "; ".join(f"{name!r}: {why}" for name, why in bad.items())
        return f"{ways} cannot be used at {listed}. {way_out}"


_PositionsAndShape = tuple[Positions | None, tuple[int, ...]]


def _of_carries(row: LayerRow | InputRow) -> dict[Carry, tuple[Positions, tuple[int, ...]]]:
    """Map what is carried past a layer, and has positions, to these and its shape."""
    return {
        carry: (carry.positions, carry.shape)
        for carry in row.carries
        if carry.positions is not None and carry.positions.dims
    }


def _fault_of_row(row: LayerRow | InputRow) -> str:
    if row.ends:
        return "one position of each sequence is taken after it, which may be the partner's"
    if isinstance(row, LayerRow) and row.folded:
        return "a dimension of it holds several rows of each example"
    unknown = [carry for carry in row.carries if carry.positions is None and len(carry.shape) > 2]
    if unknown:
        return f"{named(unknown[0].source)} is mixed with it, whose positions are not known"
    return ""


def _fault_of(own: Mapping[str, _PositionsAndShape]) -> str:
    for path, (positions, shape) in own.items():
        what = f"its output {path!r}" if path else "it"
        if positions is None:
            return f"which dimensions of {what}, of shape {shape}, are positions is not known"
        if not positions.dims:
            return f"{what} has no positions"
        if max(positions.dims) >= len(shape):
            return f"{what} has shape {shape}, without dimension {max(positions.dims)}"
    return ""


def _fault_of_batch(row: LayerRow | InputRow, own: Mapping[str, _PositionsAndShape]) -> str:
    if isinstance(row, InputRow):
        return ""  # the first pass says so
    held = {path: at.dim for path, at in row.batch_dims}
    for path, (positions, _) in own.items():
        if positions is not None and held.get(path, 0) in positions.dims:
            return f"dimension {held.get(path, 0)} of it holds the batch"
    return ""


def _sides(positions: Positions | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    assert positions is not None
    return positions.sides(shape)


def _place(
    positions: Positions | None, shape: tuple[int, ...], grid: tuple[int, ...], several: bool
) -> Place:
    sides = _sides(positions, shape)
    assert positions is not None
    factor = tuple(side // coarse for side, coarse in zip(sides, grid, strict=True))
    return Place(positions, factor, several)
