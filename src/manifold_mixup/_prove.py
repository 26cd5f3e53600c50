"""The permutation proof: with λ = 0, mixing at a valid layer permutes the model's outputs.

It knows nothing of how the model is made, and so checks what `find_layers` says by structure.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manifold_mixup._copies import NotTraceable, aside
from manifold_mixup._inputs import batched_names, leading, map_inputs, named_inputs
from manifold_mixup._layers import is_input, named_layers
from manifold_mixup._mix import is_continuous
from manifold_mixup._neutral import Neutral
from manifold_mixup._places import hook_after
from manifold_mixup._plan import MixPlan
from manifold_mixup._redraw import Examples, draw_examples, redraw_parameters
from manifold_mixup._stage import Stage, staged
from manifold_mixup._stand_ins import copied, level, plain
from manifold_mixup._tree import leaves

RunModel = Callable[
    [nn.Module, tuple[Any, ...], dict[str, Any], MixPlan | None], AbstractContextManager[Any]
]
Verdict = Literal["proven", "failed", "inconclusive", "skipped"]

# Few enough to be fast, and a cyclic shift of four rows is not its own inverse.
_ROWS = 4
# By so many times the rounding error the outputs of different examples have to differ.
_TELLING = 1000.0
# So many times the rounding error of the plain model is still rounding.
_ROUNDING = 30.0
# A λ so near to 0 that only a jump there can move the outputs.
_BARELY = 1e-30


@dataclass(frozen=True)
class LayerProof:
    """What the numbers say about one layer.

    Attributes:
        layer: its name.
        verdict: ``"proven"``; ``"failed"``, something bypasses it; ``"inconclusive"``, the numbers
            do not tell; ``"skipped"``, the model could not be tried.
        reason: why, unless it is proven.
        error: how far the mixed pass's outputs are from the permuted ones, at most.
        difference: how far apart the outputs of different examples are, at least.
        rounding: the error the model makes by itself when its examples are reordered.
    """

    layer: str
    verdict: Verdict
    reason: str = ""
    error: float = math.nan
    difference: float = math.nan
    rounding: float = math.nan


@dataclass(frozen=True)
class Report:
    """The permutation proof of several layers; its text is a table."""

    layers: tuple[LayerProof, ...]

    @property
    def ok(self) -> bool:
        """Whether every layer is proven."""
        return all(proof.verdict == "proven" for proof in self.layers)

    def __str__(self) -> str:
        width = max((len(proof.layer) for proof in self.layers), default=0)
        return "\n".join(
            f"{proof.layer:<{width}}  {proof.verdict:<12}  {_numbers(proof)}{proof.reason}".rstrip()
            for proof in self.layers
        )


def _numbers(proof: LayerProof) -> str:
    if math.isnan(proof.error):
        return ""
    error, difference = f"error {proof.error:.1e}", f"examples differ by {proof.difference:.1e}"
    return f"{error}, {difference}{'; ' if proof.reason else ''}"


def prove(
    model: nn.Module,
    names: Sequence[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: RunModel,
    mask: str | None = None,
) -> Report:
    """Try whether mixing at each layer mixes the outputs and nothing else.

    With λ = 0 the outputs of the mixed pass must be those of the plain pass, permuted:
    ``f(x | λ=0, perm at k) == f(x)[perm]``, every one of them, and their gradient must reach what
    comes before the mix, if it does unmixed. An output that holds the batch elsewhere must be
    ``f(x[perm])``. The model is tried as it trains, with the chance taken out, with parameters that
    are drawn anew, in float64 where its code allows that.

    Args:
        model: the model; it runs on stand-ins, and nothing of it changes.
        names: the layers to try.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        run: ``with run(model, args, kwargs, plan) as output`` runs a forward pass that is mixed by
            ``plan``, or by nothing if it is None. Inside, backward may recompute parts of it.
        mask: name of the padding mask that is mixed too, if there is one. The examples then differ
            in length, and just above λ = 0 the outputs must be near to those at 0: they are not
            where the union of both masks is read in place of the mixed one.

    Returns:
        A verdict on every layer.
    """
    try:
        with aside(model), staged(model) as stage:
            args, kwargs = map_inputs(lambda _, tensor: plain(tensor), model, args, kwargs)
            bench = _prepare(stage, args, kwargs, run, mask)
            return Report(tuple(bench.prove(name) for name in names))
    except _Inconclusive as error:
        return Report(tuple(LayerProof(name, "inconclusive", str(error)) for name in names))
    except NotTraceable as error:
        return Report(tuple(LayerProof(name, "skipped", str(error)) for name in names))


class _Inconclusive(Exception):
    """The model says nothing about mixing even unmixed."""


def _prepare(
    stage: Stage,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: RunModel,
    mask: str | None,
) -> "_Bench":
    """Set the model up and run it unmixed, in float64 or, failing that, in float32."""
    _refuse_lazy(stage)
    inputs = list(named_inputs(stage.model, args, kwargs))
    # Some models run with one batch size only: where they keep states, or were exported.
    counts = dict.fromkeys((_ROWS, max(len(leading(inputs)), 2)))
    ways = product(counts, (torch.float64, torch.float32), batched_names(inputs))
    for count, dtype, batched in ways:
        try:
            return _calibrated(stage, (args, kwargs), batched, count, dtype, run, mask)
        except (_Inconclusive, NotTraceable):
            raise
        except Exception as failed:  # whatever the model's own code cannot do in this type
            error = failed
    reason = f"its forward pass does not run ({type(error).__name__}: {error})"
    raise NotTraceable(reason) from error


def _calibrated(
    stage: Stage,
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    batched: frozenset[str],
    count: int,
    dtype: torch.dtype,
    run: RunModel,
    mask: str | None,
) -> "_Bench":
    """Set the model up in one way; if need be, with the states it keeps alike for all examples."""

    def bench_with(make: Callable[[Tensor], Tensor]) -> _Bench:
        stage.cast(make)
        redraw_parameters(stage.model)
        examples = draw_examples(stage.model, *inputs, batched, count, dtype, mask)
        bench = _Bench(stage, examples, run, count, masked=mask is not None)
        bench.calibrate()
        return bench

    def levelled(tensor: Tensor) -> Tensor:
        return level(copied(tensor, dtype), count)

    try:
        return bench_with(lambda tensor: copied(tensor, dtype))
    except _Inconclusive as error:
        # A state kept from an earlier batch belongs to its examples, in their old order.
        with suppress(_Inconclusive):
            return bench_with(levelled)
        raise error from None


def _refuse_lazy(stage: Stage) -> None:
    for name, parameter in stage.model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise NotTraceable(
                f"the parameter {name!r} of a lazy module has no shape yet. Run the model on one "
                f"batch first, model(x)"
            )


class _Bench:
    """The model to try layers on, and what it gives unmixed."""

    def __init__(
        self, stage: Stage, examples: Examples, run: RunModel, rows: int, *, masked: bool
    ) -> None:
        self.stage = stage
        self.model = stage.model
        self.masked = masked
        self.examples = examples
        self.run = run
        self.rows = rows
        self.devices = {
            tensor.device.type for _, tensor in named_inputs(self.model, *examples.inputs)
        }
        self.perm = torch.arange(rows, device="cpu").roll(-1)
        # Of every output that tells examples apart: what it is to be if they are reordered.
        self.permuted: dict[str, Tensor] = {}
        self.rounding: dict[str, float] = {}
        self.difference: dict[str, float] = {}

    def calibrate(self) -> None:
        """Find out what the unmixed model does when its examples are reordered.

        Raises:
            _Inconclusive: its outputs do not tell examples apart, or are not its examples' own.
        """
        plain, again, moved = self._unmixed(), self._unmixed(), self._unmixed(self.perm)
        silent = "no floating point output has the batch as its dimension 0"
        batched = False
        for path, output in plain.items():
            floor = torch.finfo(output.dtype).eps * float(output.abs().max())
            unsteady, stays = _distance(again[path], output), _distance(moved[path], output)
            if not self._has_rows(output, moved[path], _ROUNDING * floor):
                # Either it holds the batch elsewhere, or it is the same for every order.
                if stays > _TELLING * max(floor, unsteady):
                    self._expect(path, moved[path], max(floor, unsteady), stays)
                continue
            if not bool(output.isfinite().all()):
                raise _Inconclusive("the outputs are not finite with redrawn parameters")
            order = _distance(moved[path], output[self.perm])
            rounding, difference = max(floor, unsteady, order), _difference(output, self.perm)
            if 0 < difference < _TELLING * rounding:
                raise _Inconclusive(_why_silent(floor, unsteady, order, difference))
            if difference > 0:
                batched = True
                self._expect(path, output[self.perm], rounding, difference)
            else:  # a constant, which says nothing; but the other outputs may
                silent = "all examples give the same outputs. Pass examples that differ"
        if not batched:
            raise _Inconclusive(silent)

    def _has_rows(self, output: Tensor, moved: Tensor, rounding: float) -> bool:
        """Say whether the rows of an output are the examples, and not so many others by chance."""
        if output.ndim == 0 or len(output) != self.rows:
            return False
        same_order = _distance(moved, output) <= rounding
        return not same_order or _distance(moved, output[self.perm]) <= rounding

    def _expect(self, path: str, permuted: Tensor, rounding: float, difference: float) -> None:
        self.permuted[path] = permuted
        self.rounding[path] = rounding
        self.difference[path] = difference

    def prove(self, layer: str) -> LayerProof:
        """Try one layer."""
        plan = MixPlan(layer, lam=torch.tensor(0.0, device="cpu"), perm=self.perm)
        try:
            with self._watched(layer, plan) as (mixed, watch):
                errors = {path: _distance(mixed[path], end) for path, end in self.permuted.items()}
                path = max(errors, key=lambda path: errors[path] / self.rounding[path])
                verdict, reason = self._judge(path, errors[path])
                if verdict == "proven" and not is_input(layer):
                    self._backward(mixed)
            if verdict == "proven" and watch.lost and not self._loses_gradient(layer):
                verdict = "failed"
                reason = "no gradient gets from the mixed state to before the mix"
            if verdict == "proven" and self.masked and self._jumps(layer):
                verdict, reason = "failed", _UNION
        except NotTraceable as error:
            return LayerProof(layer, "skipped", str(error))
        except Exception as error:  # the hooks refuse this layer, or the model its mixed state
            return LayerProof(layer, "failed", f"{type(error).__name__}: {error}")
        numbers = errors[path], self.difference[path], self.rounding[path]
        return LayerProof(layer, verdict, reason, *numbers)

    def _judge(self, path: str, error: float) -> tuple[Verdict, str]:
        output = f"the output {path!r}" if path else "the output"
        if error <= _ROUNDING * self.rounding[path]:
            return "proven", ""
        if error > self.difference[path] / _TELLING:
            return "failed", f"{output} is not the permuted one: something bypasses the layer"
        return "inconclusive", f"the error of {output} is more than rounding"

    def _jumps(self, layer: str) -> bool:
        """Say whether the outputs are elsewhere as soon as λ is more than 0."""
        plan = MixPlan(layer, lam=torch.tensor(_BARELY, device="cpu"), perm=self.perm)
        with self._pass(None, plan) as mixed:
            return any(
                _distance(mixed[path], end) > self.difference[path] / _TELLING
                for path, end in self.permuted.items()
            )

    def _loses_gradient(self, layer: str) -> bool:
        """Say whether the model detaches the layer's state by itself, unmixed."""
        with self._watched(layer, None) as (outputs, watch):
            self._backward(outputs)
        return watch.lost

    def _backward(self, outputs: dict[str, Tensor]) -> None:
        """Go backward, all the way, for reentrant checkpoints know no other."""
        ends = [_real(outputs[path]) for path in self.permuted if outputs[path].requires_grad]
        # Weights of no symmetry: those of a softmax sum to a constant.
        weights = [torch.linspace(1, 2, end.numel()).sin().view_as(end).to(end) for end in ends]
        if ends:
            torch.autograd.backward(ends, weights)

    @contextmanager
    def _watched(
        self, layer: str, plan: MixPlan | None
    ) -> Iterator[tuple[dict[str, Tensor], "_Watch"]]:
        watch = _Watch(layer)
        with self._pass(None, plan, watch) as outputs:
            yield outputs, watch

    def _unmixed(self, perm: Tensor | None = None) -> dict[str, Tensor]:
        with self._pass(perm, None) as outputs:
            # Without their graphs, which would hold every activation of the pass.
            return {path: tensor.detach() for path, tensor in outputs.items()}

    @contextmanager
    def _pass(
        self, perm: Tensor | None, plan: MixPlan | None, watch: "_Watch | None" = None
    ) -> Iterator[dict[str, Tensor]]:
        """Run the model, always from the same state; give its outputs by path."""
        # Statistics, power iterations, whatever the pass before kept: they may have a new shape.
        self.stage.reset()
        args, kwargs = self.examples.reordered(self.model, perm)
        isolated = self.stage.isolated()
        with ExitStack() as stack:
            stack.enter_context(aside(self.model))
            if watch is not None:
                watch.put_on(self.model)
            stack.enter_context(_full_precision(self.devices))
            stack.callback(isolated.require)
            stack.enter_context(isolated)
            stack.enter_context(Neutral())
            output = stack.enter_context(self.run(self.model, args, kwargs, plan))
            yield {path: tensor for path, tensor in leaves(output) if is_continuous(tensor)}


_UNION = (
    "the outputs jump as soon as a little of a partner is mixed in: a module does not weigh by the "
    "mixed mask, but takes all that is in it for seen. Give it an additive mask, or one of weights"
)


class _Watch:
    """A forward hook that notes whether gradient gets to the output of a layer."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.watching = self.reached = False

    def put_on(self, model: nn.Module) -> None:
        """Watch the layer as the first of its hooks: it sees the state as it is before the mix."""
        if not is_input(self.layer):
            hook_after(named_layers(model)[self.layer], self, prepend=True)

    @property
    def lost(self) -> bool:
        """Whether there was something to reach, and nothing reached it."""
        return self.watching and not self.reached

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        for _, tensor in leaves(output):
            if tensor.requires_grad:
                self.watching = True
                tensor.register_hook(self._note)

    def _note(self, gradient: Tensor | None) -> None:
        # Of several results of one operator, as svd has, those that nobody used are given None.
        self.reached |= gradient is not None and bool(gradient.any())


def _why_silent(floor: float, unsteady: float, order: float, difference: float) -> str:
    if unsteady > _ROUNDING * floor:
        return "two unmixed passes differ: the model draws random numbers out of reach"
    if order > _ROUNDING * floor:
        return "unmixed, too, the outputs change with the order of the examples"
    return f"the outputs of different examples differ by {difference:.1e} only"


def _difference(output: Tensor, perm: Tensor) -> float:
    """How far each row is from the one that would take its place, at least."""
    apart = (output - output[perm]).abs().flatten(1)
    return float(apart.amax(1).min()) if apart.numel() else 0.0


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    largest = (a.detach() - b).abs().max() if a.numel() else torch.zeros(())
    return float(largest.nan_to_num(nan=math.inf))


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


@contextmanager
def _full_precision(devices: set[str]) -> Iterator[None]:
    """Switch off an autocast that the caller is in."""
    with ExitStack() as stack:
        for device in devices:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
