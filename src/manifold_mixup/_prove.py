"""The permutation proof: with λ = 0, mixing at a valid layer permutes the model's outputs.

It knows nothing of how the model is made, and so checks what `find_layers` says by structure.
"""

import functools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manifold_mixup._aside import NotTraceable, aside, in_own_context
from manifold_mixup._counted import Padded
from manifold_mixup._inputs import batched_names, leading, map_inputs, named_inputs
from manifold_mixup._layers import is_input, named_layers
from manifold_mixup._lookups import Lookups
from manifold_mixup._mix import is_continuous
from manifold_mixup._neutral import Neutral
from manifold_mixup._outputs import is_named
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
# A λ so near to 0, and one so near to 1, that only a jump there can move the outputs.
_BARELY = 1e-30
_NEARLY = 1 - 1e-6


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
        outputs: paths of what the loss reads of the model's output; None means all of it.
        lead: name of the input whose dimension 0 is the batch; None takes the likeliest.

    Returns:
        A verdict on every layer.
    """
    try:
        with aside(model), staged(model) as stage:
            args, kwargs = map_inputs(lambda _, tensor: plain(tensor), model, args, kwargs)
            bench = prepare(stage, args, kwargs, run, mask, outputs, lead)
            return Report(tuple(bench.prove(name) for name in names))
    except Inconclusive as error:
        return Report(tuple(LayerProof(name, "inconclusive", str(error)) for name in names))
    except NotTraceable as error:
        return Report(tuple(LayerProof(name, "skipped", str(error)) for name in names))


def require_proven(report: Report) -> None:
    """Raise ValueError unless every layer is proven, of a model that runs with one batch size."""
    if not report.ok:
        raise ValueError(
            f"the model runs with one batch size only, so that structure alone says nothing for "
            f"certain, and numbers do not prove every layer:\n{report}\n"
            f"Name layers that are proven, or set check=False."
        )


class Inconclusive(Exception):
    """The model says nothing about mixing even unmixed."""


class OrderMatters(Inconclusive):
    """What the model makes of an example depends on its place in the batch."""


def prepare(
    stage: Stage,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: RunModel,
    mask: str | None,
    outputs: Sequence[str] | None,
    lead: str | None,
) -> "_Bench":
    """Set the model up and run it unmixed, in float64 or, failing that, in float32."""
    _refuse_lazy(stage)
    inputs = list(named_inputs(stage.model, args, kwargs))
    rows = leading(inputs, lead)
    # Some models run with one batch size only: where they keep states, or were exported.
    counts = dict.fromkeys((_ROWS, max(len(rows), 2)))
    ways = product(counts, (torch.float64, torch.float32), batched_names(inputs, rows))
    for count, dtype, batched in ways:
        draw = functools.partial(
            draw_examples,
            stage.model,
            args,
            kwargs,
            batched=batched,
            count=count,
            batch=len(rows),
            mask=mask,
        )
        try:
            return _calibrated(stage, draw, dtype, run, mask, outputs)
        except (Inconclusive, NotTraceable):
            raise
        except Exception as failed:  # whatever the model's own code cannot do in this type
            error = failed
    reason = f"its forward pass does not run ({type(error).__name__}: {error})"
    raise NotTraceable(reason) from error


def _calibrated(
    stage: Stage,
    draw: Callable[..., Examples],
    dtype: torch.dtype,
    run: RunModel,
    mask: str | None,
    outputs: Sequence[str] | None,
) -> "_Bench":
    """Set the model up in one way; if need be, with the states it keeps alike for all examples."""

    def bench_with(make: Callable[[Tensor], Tensor]) -> _Bench:
        stage.cast(make)
        redraw_parameters(stage.model)
        return _Bench(stage, draw(dtype=dtype), run, outputs, mask)

    bench = bench_with(lambda tensor: copied(tensor, dtype))
    try:
        bench.calibrate()
    except Inconclusive as error:
        # A state kept from an earlier batch belongs to its examples, in their old order.
        kept = stage.rewritten()
        if not kept:
            raise

        def levelled(tensor: Tensor) -> Tensor:
            made = copied(tensor, dtype)
            return level(made, bench.examples.count) if id(tensor) in kept else made

        with suppress(Inconclusive):
            bench = bench_with(levelled)
            bench.calibrate()
            return bench
        raise error from None
    return bench


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
        self.run = run
        self.devices = {
            tensor.device.type for _, tensor in named_inputs(self.model, *examples.inputs)
        }
        # Of these two orders, none but the identity commutes with both: a batch that is reordered
        # inside, and put back, is seen.
        self.perm = torch.arange(examples.count, device="cpu").roll(-1)
        self.swap = torch.arange(examples.count, device="cpu")
        self.swap[:2] = self.swap[:2].flip(0)
        self.neutral = Neutral()
        self.also: AbstractContextManager[Any] = nullcontext()  # to run in, besides
        self.drew = False  # whether Python's or NumPy's generator was asked
        self.by_place = False  # and decided by it what becomes of the first example, say
        self.looks_up = False  # whether values that were cast to integers chose rows
        # What the plain pass gives, of those outputs whose rows are the examples.
        self.plain: dict[str, Tensor] = {}
        # Of every output that tells examples apart: what it is to be if they are reordered.
        self.permuted: dict[str, Tensor] = {}
        self.rounding: dict[str, float] = {}
        self.difference: dict[str, float] = {}

    def calibrate(self) -> None:
        """Find out what the unmixed model does when its examples are reordered.

        Raises:
            Inconclusive: its outputs do not tell examples apart.
            OrderMatters: they are not its examples' own.
        """
        try:
            self._calibrate()
        except OrderMatters:
            # It may pair examples at random, whatever they are: then any pairs will do.
            self.neutral = Neutral(reorders=False)
            self._calibrate()

    def _calibrate(self) -> None:
        self.also = lookups = Lookups()
        plain = self._unmixed()
        self.also, self.looks_up = nullcontext(), lookups.chose
        again, moved = self._unmixed(), self._unmixed(self.perm)
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
                raise Inconclusive("the outputs are not finite with redrawn parameters")
            order = _distance(moved[path], output[self.perm])
            # By place in the batch, chance may fall on examples: that is no meeting of theirs.
            self.by_place |= self.drew and order > _ROUNDING * floor
            own = 0.0 if self.drew else order
            rounding, difference = max(floor, unsteady, own), _difference(output, self.perm)
            if 0 < difference < _TELLING * rounding:
                raise _silent(floor, unsteady, own, difference)
            if difference > 0:
                batched = True
                self.plain[path] = output
                self._expect(path, output[self.perm], rounding, difference)
            else:  # a constant, which says nothing; but the other outputs may
                silent = "all examples give the same outputs. Pass examples that differ"
        if not batched:
            raise Inconclusive(silent)

    def _has_rows(self, output: Tensor, moved: Tensor, rounding: float) -> bool:
        """Say whether the rows of an output are the examples, and not so many others by chance."""
        if output.ndim == 0 or len(output) != self.examples.count:
            return False
        same_order = _distance(moved, output) <= rounding
        return not same_order or _distance(moved, output[self.perm]) <= rounding

    def _expect(self, path: str, permuted: Tensor, rounding: float, difference: float) -> None:
        self.permuted[path] = permuted
        self.rounding[path] = rounding
        self.difference[path] = difference

    def prove(self, layer: str) -> LayerProof:
        """Try one layer."""
        try:
            path, error, verdict, reason = self._permutes(layer)
            if verdict == "failed" and self.padding and self._reads_padding():
                reason = _PADDING
            if verdict == "proven" and (fault := self._between(layer)):
                verdict, reason = "failed", fault
        except NotTraceable as failed:
            return LayerProof(layer, "skipped", str(failed))
        except Exception as failed:  # the hooks refuse this layer, or the model its mixed state
            return LayerProof(layer, "failed", f"{type(failed).__name__}: {failed}")
        return LayerProof(layer, verdict, reason, error, self.difference[path], self.rounding[path])

    def _permutes(self, layer: str) -> tuple[str, float, Verdict, str]:
        """Try a layer at λ = 0; return the worst output, its error, and what that means."""
        with self._watched(layer, self._plan(layer, 0.0, self.perm)) as (mixed, watch):
            path, error = self._worst(mixed, self.permuted, self.perm)
            verdict, reason = self._judge(path, error)
            if verdict == "proven" and not is_input(layer):
                self._backward(mixed)
        if verdict == "proven" and watch.lost and not self._loses_gradient(layer):
            return path, error, "failed", "no gradient gets from the mixed state to before the mix"
        if verdict == "proven" and self.plain:
            swapped = {path: end[self.swap] for path, end in self.plain.items()}
            with self._pass(None, self._plan(layer, 0.0, self.swap)) as mixed:
                other, another = self._worst(mixed, swapped, self.swap)
            if another / self.rounding[other] > error / self.rounding[path]:
                path, error = other, another
            verdict, reason = self._judge(path, error)
        return path, error, verdict, reason

    def _plan(self, layer: str, lam: float, perm: Tensor) -> MixPlan:
        return MixPlan(layer, torch.tensor(lam, dtype=torch.float32, device="cpu"), perm)

    def _worst(
        self, mixed: dict[str, Tensor], ends: dict[str, Tensor], perm: Tensor
    ) -> tuple[str, float]:
        """Return the output that is farthest from what it is to be, and how far."""
        errors = {path: self._error(mixed[path], end, perm) for path, end in ends.items()}
        path = max(errors, key=lambda path: errors[path] / self.rounding[path])
        return path, errors[path]

    def _between(self, layer: str) -> str:
        """Return what is wrong between λ = 0 and 1, though it is right at both."""
        if self.padding and self._jumps(layer, _BARELY, self.permuted):
            return _UNION
        if self.looks_up and self._jumps(layer, _NEARLY, self.plain):
            return _IDS
        return ""

    def _judge(self, path: str, error: float) -> tuple[Verdict, str]:
        output = f"the output {path!r}" if path else "the output"
        if error <= _ROUNDING * self.rounding[path]:
            return "proven", ""
        if self.by_place:
            return "inconclusive", _DREW
        if error > self.difference[path] / _TELLING:
            return "failed", f"{output} is not the permuted one: something bypasses the layer"
        return "inconclusive", f"the error of {output} is more than rounding"

    def _error(self, mixed: Tensor, wanted: Tensor, perm: Tensor) -> float:
        """Return how far an output is from what it is to be, at the positions of the partners."""
        return _distance(self.padding.counted(mixed, perm), self.padding.counted(wanted, perm))

    def _reads_padding(self) -> bool:
        """Return whether outputs change, unmixed, with what stands in the padding."""
        args, kwargs = self.padding.refilled(self.model)
        with self._pass(None, None, call=(args, kwargs)) as outputs:
            still = torch.arange(self.examples.count, device="cpu")
            return any(
                self._error(outputs[path], end, still) > self.difference[path] / _TELLING
                for path, end in self.plain.items()
            )

    def _jumps(self, layer: str, lam: float, ends: dict[str, Tensor]) -> bool:
        """Return whether outputs are elsewhere for a λ so near to that of the outputs ``ends``."""
        plan = self._plan(layer, lam, self.perm)
        perm = self.perm if lam < 0.5 else torch.arange(self.examples.count, device="cpu")
        with self._pass(None, plan) as mixed:
            return any(
                self._error(mixed[path], end, perm) > self.difference[path] / _TELLING
                for path, end in ends.items()
            )

    def couples(self, mode: AbstractContextManager[Any]) -> bool:
        """Return whether, in a ``mode``, the outputs of an example change with the others."""
        self.also = mode
        plain = self._unmixed()
        for place in (0, self.examples.count - 1):
            others = torch.arange(self.examples.count, device="cpu")
            others[place] = others[place - 1]
            kept = others != others[place]
            changed = self._unmixed(others)
            for path in self.plain:
                apart = _distance(changed[path][kept], plain[path][kept])
                if apart > max(_ROUNDING * self.rounding[path], self.difference[path] / _TELLING):
                    return True
        return False

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
        self,
        perm: Tensor | None,
        plan: MixPlan | None,
        watch: "_Watch | None" = None,
        call: Any = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Run the model, always from the same state; give its outputs by path."""
        # Statistics, power iterations, whatever the pass before kept: they may have a new shape.
        self.stage.reset()
        args, kwargs = call or self.examples.reordered(self.model, perm)
        isolated = self.stage.isolated()
        with ExitStack() as stack:
            stack.enter_context(aside(self.model))
            if watch is not None:
                watch.put_on(self.model)
            stack.enter_context(_full_precision(self.devices))
            stack.callback(isolated.require)
            stack.enter_context(isolated)
            stack.enter_context(self.neutral)
            stack.enter_context(self.also)
            before = _generators()
            output = stack.enter_context(self.run(self.model, args, kwargs, plan))
            self.drew |= _generators() != before
            yield {
                path: tensor
                for path, tensor in leaves(output)
                if is_continuous(tensor) and is_named(path, self.outputs)
            }


_DREW = (
    "the model draws from Python's or NumPy's generator by the place of an example in the batch, "
    "so that outputs cannot be compared. A layer after that can be proven, or the model with it off"
)
_IDS = (
    "the outputs jump as soon as a little of a partner is mixed in: the state holds category ids, "
    "which forward casts to integers that choose rows. Mix what comes after that lookup"
)
_PADDING = (
    "the outputs change with what stands in the padding, even unmixed: a mean, or a position, that "
    "counts it. Pool in a module that is given the mask, and weigh by it"
)
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


def _silent(floor: float, unsteady: float, order: float, difference: float) -> Inconclusive:
    if unsteady > _ROUNDING * floor:
        return Inconclusive(
            "two unmixed passes differ: the model draws random numbers out of reach"
        )
    if order > _ROUNDING * floor:
        return OrderMatters("unmixed, too, the outputs change with the order of the examples")
    return Inconclusive(f"the outputs of different examples differ by {difference:.1e} only")


def _generators() -> tuple[Any, ...]:
    """Return where Python's and NumPy's generators are."""
    numpy = sys.modules.get("numpy")
    state = () if numpy is None else numpy.random.get_state()
    return random.getstate(), *(part if type(part) is int else str(part) for part in state)


def _difference(output: Tensor, perm: Tensor) -> float:
    """How far each row is from the one that would take its place, at least."""
    apart = (output - output[perm]).abs().reshape(len(output), -1)  # an output may be (batch,)
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
