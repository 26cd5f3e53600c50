"""The permutation proof: with λ = 0, mixing at a valid layer permutes the model's outputs.

It does not use the model's structure, so it independently checks the results of `find_layers`.
"""

import functools
import math
import pickle
import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._dry_run.aside import aside, in_own_context, old_objects_kept
from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._dry_run.neutral import Neutral, is_random
from manifold_mixup._dry_run.stage import Stage, staged_with
from manifold_mixup._dry_run.stand_ins import copied, level
from manifold_mixup._graphs import graphs_in
from manifold_mixup._inputs import batched_names, leading, named_inputs
from manifold_mixup._layers import ALL_RUNS, is_input, named_layers, split_run
from manifold_mixup._mix import is_continuous
from manifold_mixup._module_hooks import hook_after
from manifold_mixup._outputs import is_named
from manifold_mixup._plan import MixPlan
from manifold_mixup._progress import watched
from manifold_mixup._proof.counted import Padded
from manifold_mixup._proof.draws import same_draws
from manifold_mixup._proof.factors import Products
from manifold_mixup._proof.gradients import backward
from manifold_mixup._proof.graphs import Graphs, draw_graphs
from manifold_mixup._proof.influence import Influence
from manifold_mixup._proof.kept import kept_states, of_examples, of_first
from manifold_mixup._proof.lookups import Lookups
from manifold_mixup._proof.redraw import Examples, draw_examples, redraw_parameters
from manifold_mixup._proof.report import LayerProof, Report, Verdict
from manifold_mixup._proof.thin import drop_gradients, large_parameters, thin
from manifold_mixup._tree import leaves

RunModel = Callable[
    [nn.Module, tuple[Any, ...], dict[str, Any], MixPlan | None], AbstractContextManager[Any]
]

# A dtype, and a function that draws examples of it.
Way = tuple[torch.dtype, Callable[..., Examples]]

# Few enough to be fast, and a cyclic shift of four rows is not its own inverse.
_ROWS = 4
# A cyclic shift of two graphs is its own inverse.
_GRAPHS = 3
# The outputs of different examples must differ by this many times the rounding error.
_TELLING = 1000.0
# Up to this many times the plain model's rounding error still counts as rounding.
_ROUNDING = 30.0
# A λ so near to 0, and one so near to 1, that only a discontinuity can change the outputs.
_BARELY = 1e-30
_NEARLY = 1 - 1e-6


@in_own_context
def prove(
    model: nn.Module,
    names: Sequence[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: RunModel,
    mask: str | None = None,
    outputs: Sequence[str] | None = None,
    lead: str | None = None,
    *,
    graphs: bool = False,
    ends: bool = False,
    progress: bool = False,
) -> Report:
    """Test whether mixing at each layer mixes the outputs and nothing else.

    With λ = 0 all outputs of the mixed pass must be those of the plain pass, permuted: ``f(x | λ=0,
    perm at k) == f(x)[perm]``. Their gradient must reach the layers before the mix, if it does so
    without mixing. An output with the batch at another dimension must equal ``f(x[perm])``. The
    model is tested in train mode, with randomness neutralised and parameters redrawn, in float64 if
    its code allows.

    Args:
        model: the model; it runs on stand-ins and does not change.
        names: the layers to test.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        run: ``with run(model, args, kwargs, plan) as output`` runs a forward pass mixed by
            ``plan``, or unmixed if it is None. Inside the context, backward may recompute parts of
            the pass.
        mask: name of the padding mask that is mixed too, if there is one. The examples then differ
            in length, and just above λ = 0 the outputs must be close to those at 0. They are not if
            a module reads the union of both masks instead of the mixed mask.
        outputs: paths of the outputs that the loss reads; None means all outputs.
        lead: name of the input whose dimension 0 is the batch; None takes the likeliest.
        graphs: whether the examples are graphs, and ``lead`` holds the graph of each node.
        ends: whether token ids choose positions of the output, so that padding must have its ids.
        progress: whether to show a progress line.

    Returns:
        A verdict on every layer.
    """
    try:
        with old_objects_kept(), staged_with(model, args, kwargs) as (stage, args, kwargs):
            how: Any = run, mask, outputs, lead
            given: Any = {"graphs": graphs, "ends": ends}
            large = large_parameters(stage.model)
            rows = len(leading(list(named_inputs(stage.model, args, kwargs)), lead))
            given["kept"] = rows, set() if graphs else of_examples(stage, rows)
            bench = prepare(
                stage, args, kwargs, *how, **given, large=large, layer=next(iter(names), None)
            )
            layers = watched(names, doing="proving", show=progress)
            proofs = {name: bench.prove(name) for name in layers}
            unproven = [name for name in names if proofs[name].verdict != "proven"]
            if unproven and bench.thin:  # nothing is refused because its parameters were thin
                again = _attempt(unproven, lambda: prepare(stage, args, kwargs, *how, **given))
                proofs |= {proof.layer: proof for proof in again}
            return Report(tuple(proofs[name] for name in names))
    except Inconclusive as error:
        return Report(tuple(LayerProof(name, "inconclusive", str(error)) for name in names))
    except NotTraceable as error:
        return Report(tuple(LayerProof(name, "skipped", str(error)) for name in names))


def _attempt(names: Sequence[str], made: Callable[[], "Bench"]) -> list[LayerProof]:
    """Test layers on a bench; if there is none, say so of each."""
    try:
        bench = made()
    except (Inconclusive, NotTraceable) as error:
        verdict: Verdict = "inconclusive" if isinstance(error, Inconclusive) else "skipped"
        return [LayerProof(name, verdict, str(error)) for name in names]
    return [bench.prove(name) for name in names]


class Inconclusive(Exception):
    """Even the unmixed outputs are not suitable for the proof."""


class OrderMatters(Inconclusive):
    """The outputs of an example depend on its position in the batch."""


def prepare(
    stage: Stage,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: RunModel,
    mask: str | None,
    outputs: Sequence[str] | None,
    lead: str | None,
    *,
    graphs: bool = False,
    ends: bool = False,
    kept: tuple[int, Collection[int]] = (0, ()),
    large: Collection[int] = (),
    layer: str | None = None,
) -> "Bench":
    """Set the model up and run it unmixed, in float64 or, failing that, in float32.

    The parameters ``large``, by id, are drawn thin if the model runs with such ones. Then a
    ``layer`` may be tested at the same time. Of the tensors ``kept`` for as many examples, by id,
    those of the examples of the proof are taken, if the model runs so.
    """
    _refuse_lazy(stage)
    if graphs and lead is not None:
        ways = _ways_with_graphs(stage.model, args, kwargs, lead)
    else:
        ways = _ways(stage.model, args, kwargs, mask, lead, ends=ends)
    rows, states = kept
    tries = product(ways, (states, ()) if states else ((),))
    for (dtype, draw), cut in tries:

        def make(tensor: Tensor, dtype: Any = dtype, cut: Any = cut) -> Tensor:
            made = copied(tensor, dtype)
            return of_first(made, rows, _ROWS) if id(tensor) in cut else made

        try:
            return _calibrated(stage, draw, dtype, make, run, mask, outputs, large, layer)
        except (Inconclusive, NotTraceable):
            raise
        except Exception as failed:  # the model's code may not support this dtype
            error = failed
    reason = f"its forward pass does not run ({type(error).__name__}: {error})"
    raise NotTraceable(reason) from error


def _ways(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    mask: str | None,
    lead: str | None,
    *,
    ends: bool,
) -> Iterator[Way]:
    """Yield dtypes, each with a function that draws examples of it, the best way first."""
    inputs = list(named_inputs(model, args, kwargs))
    rows = leading(inputs, lead)
    # Some models run with one batch size only: they keep states, or were exported.
    counts = dict.fromkeys((_ROWS, max(len(rows), 2)))
    ways = product(counts, (torch.float64, torch.float32), batched_names(inputs, rows))
    for count, dtype, batched in ways:
        drawn: Any = {"batched": batched, "count": count, "batch": len(rows)}
        given = functools.partial(draw_examples, model, args, kwargs, mask=mask, ends=ends)
        yield dtype, functools.partial(given, **drawn)


def _ways_with_graphs(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], lead: str
) -> Iterator[Way]:
    numbers = leading(list(named_inputs(model, args, kwargs)), lead)
    if graphs_in(numbers) < _GRAPHS:
        raise Inconclusive(f"pass a batch of {_GRAPHS} graphs or more")
    for dtype, noise in product((torch.float64, torch.float32), (True, False)):
        yield dtype, functools.partial(draw_graphs, model, args, kwargs, lead, noise=noise)


def _calibrated(
    stage: Stage,
    draw: Callable[..., Examples],
    dtype: torch.dtype,
    copy: Callable[[Tensor], Tensor],
    run: RunModel,
    mask: str | None,
    outputs: Sequence[str] | None,
    large: Collection[int],
    layer: str | None,
) -> "Bench":
    """Set the model up in one way; if needed, make its kept states equal for all examples."""

    def bench_with(make: Callable[[Tensor], Tensor]) -> Bench:
        stage.cast(make)
        redraw_parameters(stage.model)
        return Bench(stage, draw(dtype=dtype), run, outputs, mask)

    if large:
        with suppress(Exception):  # code that writes into parameters, for example, refuses them
            slim = thin([tensor for tensor in stage.tensors if id(tensor) in large], dtype)
            bench = bench_with(
                lambda tensor: slim[id(tensor)] if id(tensor) in slim else copy(tensor)
            )
            bench.thin = True
            drop_gradients(stage.model)
            bench.calibrate(layer)
            return bench
    bench = bench_with(copy)
    try:
        bench.calibrate()
    except Inconclusive as error:
        count = bench.examples.count
        if not (kept := kept_states(stage, count)):
            raise

        def levelled(tensor: Tensor) -> Tensor:
            made = copy(tensor)
            return level(made, count) if id(tensor) in kept else made

        # A state belongs to its example. If all have the same, their order does not matter.
        alike = bench_with(levelled)
        try:
            alike.calibrate()
        except Inconclusive:
            raise error from None
        bench = bench_with(copy)
        bench.take_over(alike, kept.values())
    return bench


def _refuse_lazy(stage: Stage) -> None:
    for name, parameter in stage.model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise NotTraceable(
                f"the parameter {name!r} of a lazy module has no shape yet. Run the model on one "
                f"batch first, model(x)"
            )


class Bench:
    """The model on which layers are tested, and its unmixed outputs."""

    def __init__(
        self,
        stage: Stage,
        examples: Examples,
        run: RunModel,
        outputs: Sequence[str] | None,
        mask: str | None,
    ) -> None:
        self.stage = stage
        self.model = stage.model
        self.padding = Padded(self.model, examples, mask)
        self.outputs = outputs
        self.examples = examples
        self.of_graphs = isinstance(examples, Graphs)
        self.run = run
        self.devices = {
            tensor.device.type for _, tensor in named_inputs(self.model, *examples.inputs)
        }
        # Only the identity commutes with both orders, so a batch that is reordered inside the model
        # and restored later is detected.
        self.perm = torch.arange(examples.count, device="cpu").roll(-1)
        self.swap = torch.arange(examples.count, device="cpu")
        self.swap[:2] = self.swap[:2].flip(0)
        self.neutral = Neutral()
        self.products = Products(self.model.parameters())
        self.also: AbstractContextManager[Any] = nullcontext()  # one more context for the passes
        self.kept = ""  # what the model keeps for each example besides its inputs
        self.drew = False  # whether Python's or NumPy's generator was used
        self.by_place = False  # whether that treats examples differently by position
        # Whether large parameters are thin. If so, a test that is passed may stand for a weaker one
        # that it includes, because what fails is tested again on another bench.
        self.thin = False
        # Partners by which each layer is then tested in one pass; None if two orders do that.
        self.partners: Tensor | None = None
        self.looks_up = False  # whether values of the examples, cast to integers, chose rows
        # Whether all modules after a layer use the weights between λ = 0 and 1.
        self.weighed = False
        # Outputs of the plain pass whose rows are the examples.
        self.plain: dict[str, Tensor] = {}
        # For every output that differs between examples, its value if the examples are reordered.
        self.permuted: dict[str, Tensor] = {}
        self.rounding: dict[str, float] = {}
        self.difference: dict[str, float] = {}

    def calibrate(self, layer: str | None = None) -> None:
        """Measure how the unmixed model responds to reordered examples.

        Args:
            layer: a layer to be tested, at which they may be reordered once more in the same pass.

        Raises:
            Inconclusive: its outputs do not distinguish examples.
            OrderMatters: its outputs depend on the order of the examples.
        """
        try:
            self._calibrate(layer)
        except OrderMatters:
            # The model may pair examples at random, and then any pairs will do.
            self.neutral = Neutral(reorders=False)
            self._calibrate()

    def _calibrate(self, layer: str | None = None) -> None:
        plain, moved = self._looked_up(layer)
        floors = {path: _floor(output) for path, output in plain.items()}
        rows = {
            path: self._has_rows(path, output, moved[path], _ROUNDING * floors[path])
            for path, output in plain.items()
        }
        again = plain if self._steady(plain, moved, rows) else self._unmixed()
        silent = "no floating point output has the batch as its dimension 0"
        batched = False
        for path, output in plain.items():
            floor = floors[path]
            unsteady, stays = _distance(again[path], output), _distance(moved[path], output)
            if not rows[path]:
                # Either the batch is at another dimension, or the output is the same for every
                # order.
                if stays > _TELLING * max(floor, unsteady):
                    self._expect(path, moved[path], max(floor, unsteady), stays)
                continue
            if not bool(output.isfinite().all()):
                raise Inconclusive("the outputs are not finite with redrawn parameters")
            order = _distance(moved[path], self._ordered(output))
            # Random numbers may depend on the position in the batch; that is not an interaction.
            self.by_place |= self.drew and order > _ROUNDING * floor
            own = 0.0 if self.drew else order
            rounding, difference = max(floor, unsteady, own), _difference(output, self.perm)
            if 0 < difference < _TELLING * rounding:
                raise _silent(floor, unsteady, own, difference)
            if difference > 0:
                batched = True
                self.plain[path] = output
                self._expect(path, output[self.perm], rounding, difference)
            else:  # a constant output is not informative, but the others may be
                silent = "all examples give the same outputs. Pass examples that differ"
        if not batched:
            raise Inconclusive(silent)

    def take_over(self, alike: "Bench", kept: Iterable[str]) -> None:
        """Calibrate by the same model, in which what it keeps is the same for all examples.

        Args:
            alike: the bench of that model.
            kept: what the model keeps, in words.

        Raises:
            Inconclusive: no output has a row for each example.
        """
        self.kept, self.neutral = ", ".join(filter(None, kept)) or "a tensor", alike.neutral
        plain = self._unmixed()
        for path in alike.plain:
            self.plain[path] = plain[path]
            self._expect(path, plain[path][self.perm], alike.rounding[path], alike.difference[path])
        if not self.plain:
            raise Inconclusive(_KEPT.format(self.kept))

    def _looked_up(self, layer: str | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the outputs of the examples and of the reordered ones, and note look-ups."""
        self.also = first = Lookups()
        plain = self._unmixed()
        self.also = reordered = Lookups()
        moved = None if layer is None else self._moved_twice(plain, layer)
        if moved is None:
            self.also = reordered = Lookups()
            moved = self._unmixed(self.perm)
        else:
            self.partners = self._tangled()
        self.also, self.looks_up = nullcontext(), first.differs(reordered)
        return plain, moved

    def _steady(
        self, plain: dict[str, Tensor], moved: dict[str, Tensor], rows: dict[str, bool]
    ) -> bool:
        """Return whether reordered examples show that the model draws no random numbers."""
        return (
            self.thin  # a refusal tells for sure
            and not self.drew
            and all(
                _distance(moved[path], self._ordered(output)) <= _ROUNDING * _floor(output)
                if rows[path]
                else _distance(moved[path], output) <= _TELLING * _floor(output)
                for path, output in plain.items()
            )
        )

    def _moved_twice(self, plain: dict[str, Tensor], layer: str) -> dict[str, Tensor] | None:
        """Reorder the examples, and two of them once more at a layer.

        Returns:
            The outputs, with these two put back; None if they are not those of the plain pass.
        """
        if self.of_graphs or any(len(output) != self.examples.count for output in plain.values()):
            return None
        moved = {}
        with (
            suppress(Exception),
            self._pass(self.perm, self._plan(layer, 0.0, self.swap)) as mixed,
        ):
            for path, output in plain.items():
                wanted, made = output[self.perm], mixed[path].detach()[self.swap]
                padding = wanted - self.padding.counted(wanted, self.perm)
                moved[path] = padding + self.padding.counted(made, self.perm)
                if not _distance(moved[path], wanted) <= _ROUNDING * _floor(output):
                    return None
        return moved if len(moved) == len(plain) and not self.drew else None

    def _tangled(self) -> Tensor:
        """Return a partner for each example, so that one pass tests a layer.

        No reordering but the identity commutes with these, and no example is its own partner. With
        padding, the partner of one example lacks many of its positions.
        """
        count = self.examples.count
        first, second = self._pair() if self.padding else (0, 1)
        rest = [index for index in range(count) if index not in (first, second)]
        partners = torch.empty(count, dtype=torch.int64, device="cpu")
        for index, partner in zip(
            (first, second, *rest), (second, first, first, *rest), strict=False
        ):
            partners[index] = partner
        return partners

    def _pair(self) -> tuple[int, int]:
        """Return two examples, the first of which has many positions that the second has not."""
        valid = self.padding.valid.cpu()
        alone = (valid[:, None] & ~valid[None]).sum(2)
        first, second = divmod(int(alone.argmax()), len(valid))
        return (first, second) if first != second else (0, 1)

    def _ordered(self, output: Tensor) -> Tensor:
        """Return what an output must be if the examples are reordered; graphs are not."""
        return output if self.of_graphs else output[self.perm]

    def _has_rows(self, path: str, output: Tensor, moved: Tensor, rounding: float) -> bool:
        """Return whether the rows of an output are the examples, not equally many by chance."""
        if output.ndim and self.of_graphs and len(output) != self.examples.count:
            raise Inconclusive(_NO_GRAPHS.format(path and f" {path!r}", tuple(output.shape)))
        if output.ndim == 0 or len(output) != self.examples.count:
            return False
        if self.of_graphs:
            return True
        same_order = _distance(moved, output) <= rounding
        return not same_order or _distance(moved, output[self.perm]) <= rounding

    def _expect(self, path: str, permuted: Tensor, rounding: float, difference: float) -> None:
        self.permuted[path] = permuted
        self.rounding[path] = rounding
        self.difference[path] = difference

    def prove(self, layer: str) -> LayerProof:
        """Test one layer."""
        try:
            path, error, verdict, reason = self._permutes(layer)
            if verdict == "failed" and self.padding:
                reason = self._of_padding(path) or reason
            if verdict == "proven" and (fault := self._between(layer)):
                verdict, reason = "failed", fault
        except NotTraceable as failed:
            return LayerProof(layer, "skipped", str(failed))
        except Exception as failed:  # from our hooks, or from the model on the mixed state
            way_out = _AS_INTEGERS if "boolean" in str(failed) and self._has_boolean_mask() else ""
            return LayerProof(layer, "failed", f"{type(failed).__name__}: {failed}{way_out}")
        return LayerProof(layer, verdict, reason, error, self.difference[path], self.rounding[path])

    def _has_boolean_mask(self) -> bool:
        inputs = named_inputs(self.model, *self.examples.inputs)
        return any(n == self.padding.mask and t.dtype == torch.bool for n, t in inputs)

    def _permutes(self, layer: str) -> tuple[str, float, Verdict, str]:
        """Test a layer at λ = 0; return the worst output, its error, the verdict and the reason."""
        perm, ends = self.perm, self.permuted
        if self.partners is not None:
            perm = self.partners
            ends = {path: output[perm] for path, output in self.plain.items()}
        with self._watched(layer, self._plan(layer, self._least(), perm)) as (mixed, watch):
            path, error = self._worst(mixed, ends, perm)
            verdict, reason = self._judge(path, error)
            if verdict == "proven" and not is_input(layer):
                self._backward(mixed)
        if verdict == "proven" and watch.lost and not self._loses_gradient(layer):
            return path, error, "failed", "no gradient flows back through the mixed state"
        if verdict == "proven" and self.partners is None and self.plain:
            swapped = {path: end[self.swap] for path, end in self.plain.items()}
            with self._pass(None, self._plan(layer, 0.0, self.swap)) as mixed:
                other, another = self._worst(mixed, swapped, self.swap)
            if another / self.rounding[other] > error / self.rounding[path]:
                path, error = other, another
            verdict, reason = self._judge(path, error)
        return path, error, verdict, reason

    def _least(self) -> float:
        """Return the λ at which the outputs must be those of λ = 0, or nearly so."""
        return _BARELY if self.padding and self.thin else 0.0

    def _plan(self, layer: str, lam: float, perm: Tensor) -> MixPlan:
        return MixPlan(layer, torch.tensor(lam, dtype=torch.float32, device="cpu"), perm)

    def _worst(
        self, mixed: dict[str, Tensor], ends: dict[str, Tensor], perm: Tensor
    ) -> tuple[str, float]:
        """Return the output that is farthest from its expected value, and its error."""
        errors = {path: self._error(mixed[path], end, perm) for path, end in ends.items()}
        path = max(errors, key=lambda path: errors[path] / self._allowed(path))
        return path, errors[path]

    def _allowed(self, path: str) -> float:
        """Return up to which error an output counts as equal."""
        rounding = _ROUNDING * self.rounding[path]
        return min(rounding, self.difference[path] / _TELLING) if self._least() else rounding

    def _between(self, layer: str) -> str:
        """Return what is wrong between λ = 0 and 1, although both ends are right."""
        if self.padding and not self._least() and self._jumps(layer, _BARELY, self.permuted):
            return _UNION
        if self.padding and not self.weighed:  # layers come in order
            if fault := self._misread(layer):
                return fault
            self.weighed = True
        if self.looks_up and self._jumps(layer, _NEARLY, self.plain):
            return _IDS
        return ""

    def _misread(self, layer: str) -> str:
        """Return how a module misreads positions that one of two examples has; empty if none does.

        What these positions are to an example and its partner is the same among more examples.
        """
        if self.thin:
            pair = torch.tensor(self._pair(), device="cpu")
            with suppress(Exception):  # from a model that needs its number of examples
                alone = self._influence(layer, 0.5, pair)
                if not alone.is_faint():
                    return _ROUNDED if alone.is_rounded() else ""
        middle = self._influence(layer, 0.5)
        if middle.is_rounded():
            return _ROUNDED
        lost = middle.is_faint() and self._influence(layer, 1.0).lost(middle)
        return _INTERSECTION if lost else ""

    def _judge(self, path: str, error: float) -> tuple[Verdict, str]:
        output = f"the output {path!r}" if path else "the output"
        if error <= self._allowed(path):
            return "proven", ""
        if self.by_place:
            return "inconclusive", _DREW
        if error > self.difference[path] / _TELLING:
            by = _KEPT.format(self.kept) if self.kept else "something bypasses the layer"
            return "failed", f"{output} is not permuted correctly: {by}"
        return "inconclusive", f"the error of {output} is larger than rounding"

    def _error(self, mixed: Tensor, wanted: Tensor, perm: Tensor) -> float:
        """Return the distance of an output from its expected value, at the partners' positions."""
        return _distance(self.padding.counted(mixed, perm), self.padding.counted(wanted, perm))

    def _of_padding(self, worst: str) -> str:
        """Return a reason if the output ``worst`` also depends on the padding; empty otherwise."""
        read = self._reading_padding()
        if worst not in read:
            return ""
        if fine := [path for path in self.plain if path not in read]:
            named = ", ".join(map(repr, read[:_SHOWN])) + (", ..." if len(read) > _SHOWN else "")
            return _SOME_PADDING.format(named, fine[0])
        return _PADDING

    def _reading_padding(self) -> list[str]:
        """List the unmixed outputs that depend on the values in the padding."""
        args, kwargs = self.padding.refilled(self.model)
        with self._pass(None, None, call=(args, kwargs)) as outputs:
            still = torch.arange(self.examples.count, device="cpu")
            return [
                path
                for path, end in self.plain.items()
                if self._error(outputs[path], end, still) > self.difference[path] / _TELLING
            ]

    def _jumps(self, layer: str, lam: float, ends: dict[str, Tensor]) -> bool:
        """Return whether outputs jump at ``lam``, which is very near the λ of ``ends``."""
        plan = self._plan(layer, lam, self.perm)
        perm = self.perm if lam < 0.5 else torch.arange(self.examples.count, device="cpu")
        with self._pass(None, plan) as mixed:
            return any(
                self._error(mixed[path], end, perm) > self.difference[path] / _TELLING
                for path, end in ends.items()
            )

    def _influence(self, layer: str, lam: float, rows: Tensor | None = None) -> Influence:
        """Measure, at a ``lam``, how much positions count that an example's partner has not.

        Args:
            layer: the layer.
            lam: λ.
            rows: two examples to take alone; None takes all.
        """
        valid, perm = self.padding.valid, self.perm
        if rows is not None:
            valid, perm = valid[rows.to(valid.device)], torch.tensor([1, 0], device="cpu")
        influence = Influence(valid, perm, layer, each=lam == 1)
        try:
            with self._pass(rows, self._plan(layer, lam, perm), influence):
                return influence
        finally:
            influence.restore()

    def couples(self, mode: AbstractContextManager[Any]) -> bool:
        """Return whether, in a ``mode``, an example's outputs depend on the other examples."""
        self.also = mode
        plain = self._unmixed()
        for index in (0, self.examples.count - 1):
            others = torch.arange(self.examples.count, device="cpu")
            others[index] = others[index - 1]
            kept = others != others[index]
            changed = self._unmixed(others)
            for path in self.plain:
                apart = _distance(changed[path][kept], plain[path][kept])
                if apart > max(_ROUNDING * self.rounding[path], self.difference[path] / _TELLING):
                    return True
        return False

    def changed(self, graph: int, mode: AbstractContextManager[Any]) -> Tensor:
        """Return which rows of the outputs change, in a ``mode``, if one graph's nodes do."""
        if not isinstance(self.examples, Graphs):
            raise TypeError("the examples are no graphs")
        self.also = mode
        plain, rows = self._unmixed(), torch.zeros(self.examples.count, dtype=torch.bool)
        with self._pass(None, None, call=self.examples.replaced(self.model, graph)) as changed:
            for path in self.plain:
                apart = (changed[path].detach() - plain[path]).abs().flatten(1).amax(1).cpu()
                least = max(_ROUNDING * self.rounding[path], self.difference[path] / _TELLING)
                rows |= ~(apart <= least)
        return rows

    def _loses_gradient(self, layer: str) -> bool:
        """Return whether the model itself detaches the layer's state, even without mixing."""
        with self._watched(layer, None) as (outputs, watch):
            self._backward(outputs)
        return watch.lost

    def _backward(self, outputs: dict[str, Tensor]) -> None:
        """Run backward to all leaves; reentrant checkpoints support nothing else."""
        ends = [_real(outputs[path]) for path in self.permuted if outputs[path].requires_grad]
        # Asymmetric weights, because the outputs of a softmax sum to a constant.
        weights = [torch.linspace(1, 2, end.numel()).sin().view_as(end).to(end) for end in ends]
        if ends:
            backward(ends, weights)

    @contextmanager
    def _watched(
        self, layer: str, plan: MixPlan | None
    ) -> Iterator[tuple[dict[str, Tensor], "_Watch"]]:
        watch = _Watch(layer)
        with self._pass(None, plan, watch) as outputs:
            yield outputs, watch

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Compute an operator in another way: if it is random, or a product with a thin matrix."""
        if is_random(func):
            return self.neutral.__torch_dispatch__(func, (), args, kwargs)
        return self.products(func, args, kwargs)

    def _unmixed(self, perm: Tensor | None = None) -> dict[str, Tensor]:
        with self._pass(perm, None) as outputs:
            # Without the graphs, which would keep every activation of the pass.
            return {path: tensor.detach() for path, tensor in outputs.items()}

    @contextmanager
    def _pass(
        self,
        perm: Tensor | None,
        plan: MixPlan | None,
        watch: "_Watch | Influence | None" = None,
        call: Any = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Run the model, always from the same state, and yield its outputs by path."""
        # Undo what the pass before kept (statistics, power iterations), which may have a new shape.
        self.stage.reset()
        args, kwargs = call or self.examples.reordered(self.model, perm)
        isolated = self.stage.isolated(self._compute)
        with ExitStack() as stack:
            stack.enter_context(aside(self.model))
            if watch is not None:
                watch.put_on(self.model)
            stack.enter_context(_full_precision(self.devices))
            stack.callback(isolated.require)
            stack.enter_context(isolated)
            stack.enter_context(self.also)
            stack.enter_context(same_draws())
            before = _generators()
            output = stack.enter_context(self.run(self.model, args, kwargs, plan))
            self.drew |= _generators() != before
            yield {
                path: tensor
                for path, tensor in leaves(output)
                if is_continuous(tensor) and is_named(path, self.outputs)
            }


_KEPT = (
    "it depends on what the model keeps for each example besides its inputs, {}, which is not "
    "mixed. Mix a layer after that is read, or begin each batch without it. Or, if a batch "
    "continues the sequences of the last one, mix all of them by one plan, in mixup.using(plan), "
    "and set check=False"
)
_NO_GRAPHS = (
    "the output{} of shape {} has no row for each graph, and would stay unmixed. Name the outputs "
    "that the loss reads, as in outputs='0'"
)
_DREW = (
    "the model draws from Python's or NumPy's generator by the position of an example in the "
    "batch, so outputs cannot be compared. Choose a layer after that, or turn the randomness off "
    "for the proof"
)
_IDS = (
    "the outputs jump as soon as a small share of a partner is mixed in: the state holds category "
    "ids, which forward casts to integers that choose rows. Mix a layer after that lookup"
)
_AS_INTEGERS = (
    ". A mixed boolean mask is additive, and a module computes with it. Pass the mask as integers, "
    "mask.long(), and let the module take mask.bool()"
)
# Number of outputs in a message.
_SHOWN = 3
_POOL = (
    "Pool in a module that receives the mask, and use it as weights; multiply the states by them "
    "before a convolution"
)
_PADDING = (
    "the outputs depend on the values in the padding, even without mixing: a mean, a position or a "
    f"convolution includes them. {_POOL}"
)
_SOME_PADDING = (
    "the values in the padding count, even without mixing, in the outputs {0}, but not in {1!r}. "
    "If the loss does not read those, name what it reads, as in outputs={1!r}. Otherwise: "
    f"{_POOL[0].lower()}{_POOL[1:]}"
)
_UNION = (
    "the outputs jump as soon as a small share of a partner is mixed in: a module does not use the "
    "mixed mask as weights, but treats every nonzero entry as fully valid. Pass it an additive "
    "mask, or a mask of weights"
)


_INTERSECTION = (
    "between λ = 0 and 1, a position that only one of two examples has does not count: a module "
    "forbids it as soon as its weight is less than 1, as (1 - mask) * -1e4 does. Pass the module "
    "an additive mask"
)
_ROUNDED = (
    "between λ = 0 and 1, a module does not use the mixed mask as weights, but rounds or compares "
    "them: a position counts fully or not at all, at whatever weight. Weight by the mask, as "
    "(weights[..., None] * h).sum(1) / weights.sum(1, keepdim=True) does"
)


class _Watch:
    """A forward hook that records whether gradient reaches the output of a layer."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.module, self.run = split_run(layer)
        self.ran = 0
        self.watching = self.reached = False

    def put_on(self, model: nn.Module) -> None:
        """Register as the first hook of the layer, which sees the state before it is mixed."""
        if not is_input(self.layer):
            hook_after(named_layers(model)[self.module], self, prepend=True)

    @property
    def lost(self) -> bool:
        """Whether the output requires a gradient but receives none."""
        return self.watching and not self.reached

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        run, self.ran = str(self.ran), self.ran + 1
        if self.run not in ("", ALL_RUNS, run):
            return
        for _, tensor in leaves(output):
            # PyTorch up to 2.14 may crash if the graph of a view is not brought up to date first.
            if tensor.requires_grad and (tensor.is_leaf or tensor.grad_fn is not None):
                self.watching = True
                tensor.register_hook(self._note)

    def _note(self, gradient: Tensor | None) -> None:
        # Unused results of an operator with several results, such as svd, get None.
        self.reached |= gradient is not None and bool(gradient.any())


def _silent(floor: float, unsteady: float, order: float, difference: float) -> Inconclusive:
    if unsteady > _ROUNDING * floor:
        return Inconclusive(
            "two unmixed passes differ: the model draws random numbers that cannot be neutralised"
        )
    if order > _ROUNDING * floor:
        return OrderMatters("even unmixed, the outputs depend on the order of the examples")
    return Inconclusive(f"the outputs of different examples differ by only {difference:.1e}")


def _generators() -> tuple[Any, bytes]:
    """Return the state of Python's and NumPy's generators."""
    numpy = sys.modules.get("numpy")
    # The state is a dict of arrays, which cannot be compared at once.
    state = b"" if numpy is None else pickle.dumps(numpy.random.get_state(legacy=False))
    return random.getstate(), state


def _difference(output: Tensor, perm: Tensor) -> float:
    """Return the smallest distance between a row and the row that replaces it."""
    apart = (output - output[perm]).abs().reshape(len(output), -1)  # an output may be (batch,)
    return float(apart.amax(1).min()) if apart.numel() else 0.0


def _floor(output: Tensor) -> float:
    """Return the rounding of a single operation."""
    return torch.finfo(output.dtype).eps * float(output.abs().max())


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    largest = (a.detach() - b).abs().max() if a.numel() else torch.zeros(())
    return float(largest.nan_to_num(nan=math.inf))


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


@contextmanager
def _full_precision(devices: set[str]) -> Iterator[None]:
    """Turn off autocast, which the caller may have enabled."""
    with ExitStack() as stack:
        for device in devices:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
