"""The automatic choice: the hidden layers that are mixed if none are named."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from manifold_mixup._layers import is_input, module_name, split_run
from manifold_mixup._structure.row import LayerRow

# The choice takes hidden layers between these depths, at least this far apart, and as near as
# possible to depths 1/4 and 1/2.
EARLIEST, LATEST, APART = 0.05, 0.70, 0.05
_QUARTER, _HALF, _BETWEEN = 1 / 4, 1 / 2, 3 / 8
# By so much must runs of a shared module be nearer to these to be taken before other layers.
_CLEARLY = 0.3
# The share of the parameters between two layers that are not nearly the same.
_LEARNT = 0.001
# In a network of two or three layers, even the first may end later than that.
_LAST_RESORT = 0.95

# Finds the best layers among some, given the modules with parts.
_Find = Callable[[Sequence[LayerRow], Collection[str]], tuple[str, ...]]


@dataclass(frozen=True)
class Choice:
    """The chosen layers.

    Attributes:
        layers: two names, or one if there are no two, or none if there is no cut point.
        measure: what their depth was measured by: ``"FLOPs"``, ``"parameters"`` or ``"order"``.
    """

    layers: tuple[str, ...] = ()
    measure: str = "FLOPs"


def choose(rows: Sequence[LayerRow]) -> Choice:
    """Choose hidden layers.

    Where no two lie between the depths by FLOPs, because one layer spends most of them, the share
    of the parameters counts in place of the depth, and where there are no two either, the share of
    the operators. Where there are no two by any measure, it is one, by the first measure that has
    it. Layers that carry nothing are preferred: less is mixed there; and modules that
    run once. A single run of a loop that carries what later runs are given is taken only if there
    is nothing else.
    """
    # A module named like an input, or like a run of another, would be mistaken for it.
    rows = [row for row in rows if not (is_input(row.name) or _is_like_run(row))]
    found = _choose([row for row in rows if row.run is None or not row.carries])
    return found if found.layers else _choose(rows)


def _choose(rows: Sequence[LayerRow]) -> Choice:
    blocks = {row.name.rpartition(".")[0] for row in rows}  # the modules with parts
    measured = list(_measured(rows))
    # If a mask rules out the usual choice, the user has to know: no other measure.
    measured = measured[:1] if any(map(masked, rows)) else measured
    pair: _Find = functools.partial(_pair, flops={row.name: row.depth for row in rows})
    one: _Find = _single
    for find, (measure, cuts) in (*product([pair], measured), *product([one], measured[:4])):
        alone = [row for row in cuts if not row.carries]
        once = [row for row in alone if row.runs == 1]
        found = _better(cuts, find(once, blocks), find(alone, blocks))
        found = found or find(_without_worse(cuts, once), blocks)
        if found:
            return Choice(found, measure)
    if len(measured) > 1:
        return Choice(_single(measured[0][1], blocks, LATEST, _LAST_RESORT))
    return Choice()


def _better(
    cuts: Sequence[LayerRow], once: tuple[str, ...], runs: tuple[str, ...]
) -> tuple[str, ...]:
    """Return modules that run once, unless runs of others are clearly nearer to the best depths."""
    depths = {row.name: row.depth for row in cuts}
    if len(once) == len(runs) == 2:
        far, near = (_distance(*(depths[name] for name in pair)) for pair in (once, runs))
        return runs if near < far - _CLEARLY else once
    return once or runs


def _without_worse(cuts: Sequence[LayerRow], plain: Sequence[LayerRow]) -> list[LayerRow]:
    """Return the layers without those that are no more than a plain one at the same depth.

    Args:
        cuts: the layers.
        plain: those of them that carry nothing and run once.
    """
    names, depths = {row.name for row in plain}, {row.depth for row in plain}
    return [row for row in cuts if row.name in names or row.depth not in depths]


def choose_of_graphs(rows: Sequence[LayerRow]) -> Choice:
    """Choose layers after the pooling of graphs, which usually ends after nearly all FLOPs.

    The first is what was pooled, or the earliest layer after it. The second is nearest to the
    middle of the parameters that follow. Something is learnt after each of them.
    """
    blocks = {row.name.rpartition(".")[0] for row in rows}
    cuts = [replace(row, depth=row.parameters) for row in rows if row.cut and row.parameters < 1]
    cuts = [row for row in cuts if row.run is None] or cuts
    found = _outermost(_by_level([row for row in cuts if not row.carries] or cuts, blocks))
    if len(found) < 2:
        return Choice(tuple(row.name for row in found), "parameters")
    middle = (found[0].depth + 1) / 2
    second = min(found[1:], key=lambda row: abs(row.depth - middle))
    return Choice((found[0].name, second.name), "parameters")


def level(row: LayerRow) -> int:
    """Return how deeply a layer's name is nested: stages before blocks before layers."""
    return row.name.count(".")


def masked(row: LayerRow) -> bool:
    """Return whether only a side input keeps a layer from being chosen."""
    return row.bypassed == "side" and not row.cut and EARLIEST <= row.depth <= LATEST


def _is_like_run(row: LayerRow) -> bool:
    return row.runs == 1 and bool(split_run(row.name)[1])


def _measured(rows: Sequence[LayerRow]) -> Iterator[tuple[str, list[LayerRow]]]:
    """Yield the names of the measures, each with the cut points, whose depth is given by it."""
    cuts = [row for row in rows if row.cut]
    yield "FLOPs", cuts
    for between in (
        [row for row in cuts if 0 < row.depth < 1],  # something is computed before and after
        [row for row in cuts if 0 < row.parameters < 1],  # filters may count no FLOPs
    ):
        yield "parameters", [replace(row, depth=row.parameters) for row in between]
        yield "order", [replace(row, depth=row.order) for row in between]


def _pair(
    cuts: Sequence[LayerRow], blocks: Collection[str], flops: Mapping[str, float]
) -> tuple[str, ...]:
    """Return the two best cut points of the outermost level that has two, or else of any levels."""
    inside = [row for row in cuts if EARLIEST <= row.depth <= LATEST]
    levels = _by_level(inside, blocks)
    for group in (*levels, _outermost(levels)):
        pairs = [(a, b) for a, b in combinations(group, 2) if _are_apart(a, b, flops)]
        if pairs:
            a, b = min(pairs, key=lambda pair: _distance(pair[0].depth, pair[1].depth))
            return a.name, b.name
    return ()


def _are_apart(first: LayerRow, second: LayerRow, flops: Mapping[str, float]) -> bool:
    """Return whether a layer ends well after another, and not only by operators that move values.

    Between them there are FLOPs, or parameters, which a norm has, but no activation.
    """
    more = flops[second.name] > flops[first.name]
    learnt = second.parameters - first.parameters >= _LEARNT
    return second.depth - first.depth >= APART and (more or learnt)


def _outermost(levels: Sequence[Sequence[LayerRow]]) -> list[LayerRow]:
    """Return the layers of all levels, ordered by depth, and of each depth the outermost."""
    found: dict[float, LayerRow] = {}
    for group in levels:
        for row in group:
            found.setdefault(row.depth, row)
    return sorted(found.values(), key=lambda row: row.depth)


def _single(
    cuts: Sequence[LayerRow],
    blocks: Collection[str],
    earliest: float = EARLIEST,
    latest: float = LATEST,
) -> tuple[str, ...]:
    """Return the best cut point of the outermost level that has one."""
    inside = [row for row in cuts if earliest <= row.depth <= latest]
    for same in _by_level(inside, blocks):
        return (min(same, key=lambda row: abs(row.depth - _BETWEEN)).name,)
    return ()


def _by_level(rows: Sequence[LayerRow], blocks: Collection[str]) -> list[list[LayerRow]]:
    """Group layers by level, and keep only the best of each depth."""
    found = []
    for n in sorted({level(row) for row in rows}):
        best: dict[float, LayerRow] = {}
        for row in rows:
            if level(row) == n and not _adds_nothing(row, best.get(row.depth), blocks):
                best[row.depth] = row
        found.append(list(best.values()))
    return found


def _adds_nothing(row: LayerRow, before: LayerRow | None, blocks: Collection[str]) -> bool:
    """Return whether a layer is a dropout, a norm or the like behind a block of equal depth."""
    return (
        before is not None
        and module_name(before.name) in blocks
        and module_name(row.name) not in blocks
        and before.shape == row.shape
    )


def _distance(first: float, second: float) -> float:
    return abs(first - _QUARTER) + abs(second - _HALF)
