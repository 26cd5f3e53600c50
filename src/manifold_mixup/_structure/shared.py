"""Build the rows of a module that runs several times: one for a run, one for all runs together.

A run is a layer of its own, ``"encoder.layer@3"``, counted from 0. All runs together are one,
``"encoder@*"``, if no run alone is a cut point and none depends on another: both branches of a
siamese network, or a layer that is applied at every time step. (A single run may still be a cut
point if it carries what the others are given.)
"""

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._layers import ALL_RUNS, run_name
from manifold_mixup._positions import Positions
from manifold_mixup._structure.recorded import Leaf, Run, Trace
from manifold_mixup._structure.row import LayerRow
from manifold_mixup._structure.rows import RowBuilder

Value = TypeVar("Value")
# Modules that run more often than this have no row for each run, unless one is named.
_LISTED = 16


def rows_of(builder: RowBuilder, trace: Trace, named: Collection[str]) -> Iterator[LayerRow]:
    """Yield the rows of all modules of a pass, in the order in which their runs end.

    Args:
        builder: builds the row of a single run.
        trace: the recorded pass.
        named: modules of which a run was named, whose runs are all listed.
    """
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in trace.runs:
        runs[run.layer].append(run)
    shared = _SharedRows(builder, trace, named)
    rows = {layer: list(shared.rows(each)) for layer, each in runs.items() if len(each) > 1}
    for run in trace.runs:
        if run.layer not in rows:
            yield builder.row(run)
            continue
        last = run.number == len(runs[run.layer]) - 1
        for row in rows[run.layer]:
            if row.run == run.number or (last and row.run is None):
                yield row


class _SharedRows:
    """Builds the rows of modules that run several times; see `rows_of`."""

    def __init__(self, builder: RowBuilder, trace: Trace, named: Collection[str]) -> None:
        self.builder, self.trace, self.named = builder, trace, named

    def rows(self, runs: Sequence[Run]) -> Iterator[LayerRow]:
        """Yield the rows of a module's runs, then that of the module, which cannot be mixed."""
        layer, end = runs[-1].layer, self.builder.row(runs[-1])
        each: list[LayerRow] = []
        reason = f"it ran {len(runs)} times in one forward pass. "
        if layer in self._recursive:
            reason += "Name a layer that contains all runs"
        else:
            if len(runs) <= _LISTED or layer in self.named:
                each = [self._single(run, len(runs)) for run in runs]
            alone = any(row.cut and not row.carries for row in each)
            together = None if alone else self._together(runs, end)
            each += [together] if together else []
            reason += _way_out(layer, each, len(runs))
        yield from each
        yield replace(
            _alone(end),
            runs=len(runs),
            cut=False,
            reason=self.builder.fault or reason,
            checkpointed=layer in self._checkpointed,
        )

    def _single(self, run: Run, count: int) -> LayerRow:
        name = run_name(run.layer, run.number)
        again = run.layer in self._checkpointed
        return replace(
            self.builder.row(run), name=name, runs=count, run=run.number, checkpointed=again
        )

    def _together(self, runs: Sequence[Run], end: LayerRow) -> LayerRow | None:
        """Return the row of all runs together if they can be mixed at once; otherwise None."""
        mixed = [self.builder.mixed(run) for run in runs]
        nodes = [{leaf.node for leaf in leaves} for leaves in mixed]
        outputs = set().union(*nodes)
        bypass = self.builder.flow.bypassing(outputs) if outputs else 0
        unfit = self.builder.fault or any(map(self.builder.own_fault, runs, mixed)) or bypass
        if unfit or not self._alike(runs, mixed) or self._depend(nodes):
            return None
        paths = {leaf.path: None for leaves in mixed for leaf in leaves}
        flops, order = self._before(outputs)
        layer = end.name
        return replace(
            _alone(end),
            name=run_name(layer, ALL_RUNS),
            runs=len(runs),
            depth=flops if self.trace.flops else order,
            order=order,
            cut=True,
            reason="",
            mixed=tuple(paths),
            unmixed=tuple(path for path in end.unmixed if path not in paths),
            checkpointed=layer in self._checkpointed,
            in_front=all(run.in_front for run in runs),
            shapes=_same([(leaf.path, leaf.shape) for leaves in mixed for leaf in leaves]),
            positions=self._same_positions(runs, mixed),
            plain_outputs=self.builder.plain_outputs([leaf for leaves in mixed for leaf in leaves]),
        )

    def _same_positions(
        self, runs: Sequence[Run], mixed: Sequence[Sequence[Leaf]]
    ) -> tuple[tuple[str, Positions], ...]:
        """Return the positions that can be told, and are the same in all runs."""
        positions = [dict(self.builder.positions(*each)) for each in zip(runs, mixed, strict=True)]
        paths = [
            (leaf.path, positions[n].get(leaf.path)) for n, ls in enumerate(mixed) for leaf in ls
        ]
        return tuple((path, found) for path, found in _same(paths) if found is not None)

    def _alike(self, runs: Sequence[Run], mixed: Sequence[Sequence[Leaf]]) -> bool:
        """Return whether all runs hold the batch at the same dimension."""
        dims: dict[str, set[BatchDim | None]] = {}
        for run, leaves in zip(runs, mixed, strict=True):
            for leaf in leaves:
                dims.setdefault(leaf.path, set()).add(self.builder.dims.of(run, leaf))
        return all(len(found) == 1 for found in dims.values())

    def _depend(self, outputs: Sequence[Collection[int]]) -> bool:
        """Return whether the output of a run depends on that of another, and would be mixed twice.

        Args:
            outputs: for each run, the nodes of its output.
        """
        after: list[frozenset[int]] = []  # for each node, the runs whose output it depends on
        of_run = {node: number for number, nodes in enumerate(outputs) for node in nodes}
        for number, node in enumerate(self.trace.nodes):
            before = frozenset().union(*(after[parent] for parent in node.parents))
            if number in of_run and before:
                return True
            after.append(frozenset((of_run[number],)) if number in of_run else before)
        return False

    def _before(self, outputs: Collection[int]) -> tuple[float, float]:
        """Return the shares of the FLOPs and of the values that do not depend on ``outputs``."""
        nodes, after, flops = self.trace.nodes, set(outputs), 0
        for number, node in enumerate(nodes):
            if number in after or not after.isdisjoint(node.parents):
                after.add(number)
            else:
                flops += node.flops
        values = len(nodes) - self.trace.first_computed
        return flops / max(self.trace.flops, 1), 1 - len(after) / max(values, 1)

    @functools.cached_property
    def _checkpointed(self) -> set[str]:
        """The modules of which an activation checkpoint recomputes a run."""
        return {run.layer for run in self.trace.runs if run.checkpointed}

    @functools.cached_property
    def _recursive(self) -> set[str]:
        """The modules that run inside themselves."""
        calls = self.trace.calls
        return {
            call.layer
            for call in calls
            if call.layer in {calls[i].layer for i in call.enclosing_calls}
        }


def _alone(row: LayerRow) -> LayerRow:
    """Return the row without what is mixed besides its output, or bypasses it."""
    return replace(row, bypassed="", side=(), mask="", readers=(), carries=(), ends=())


def _same(pairs: Iterable[tuple[str, Value]]) -> tuple[tuple[str, Value], ...]:
    """Return the pairs of a path and a value for paths that have one value only."""
    found: dict[str, dict[Value, None]] = {}
    for path, value in pairs:
        found.setdefault(path, {})[value] = None
    return tuple((path, next(iter(values))) for path, values in found.items() if len(values) == 1)


def _way_out(layer: str, rows: Sequence[LayerRow], count: int) -> str:
    """Name what can be mixed in place of a module that runs several times."""
    cuts = [row.name for row in rows if row.cut]
    everything = run_name(layer, ALL_RUNS)
    if everything in cuts:
        return f"Name {everything!r} to mix all of them"
    if len(cuts) == 1:
        return f"Name {cuts[0]!r}"
    if cuts:
        return f"Name one, such as {cuts[0]!r}, or {everything!r} for each that can be mixed"
    if not rows:
        first, last = run_name(layer, 0), run_name(layer, count - 1)
        return f"Name a layer that contains all runs, or try one, {first!r} to {last!r}"
    return "Name a layer that contains all runs"
