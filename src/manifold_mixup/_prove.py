"""The permutation proof: with λ = 0, mixing at a valid layer permutes the model's outputs.

It knows nothing of how the model is made, and so checks what `find_layers` says by structure.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manifold_mixup._copies import NotTraceable, aside, copy_model
from manifold_mixup._inputs import named_inputs
from manifold_mixup._layers import is_input, named_layers
from manifold_mixup._neutral import Neutral
from manifold_mixup._plan import MixPlan
from manifold_mixup._redraw import Arguments, draw_examples, permute_examples, redraw_parameters
from manifold_mixup._tree import leaves

RunModel = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], MixPlan | None], Any]
Verdict = Literal["proven", "failed", "inconclusive", "skipped"]

# Few enough to be fast, and a cyclic shift of four rows is not its own inverse.
_ROWS = 4
# By so many times the rounding error the outputs of different examples have to differ.
_TELLING = 1000.0
# So many times the rounding error of the plain model is still rounding.
_ROUNDING = 30.0


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
) -> Report:
    """Try whether mixing at each layer mixes the outputs and nothing else.

    With λ = 0 the outputs of the mixed pass must be those of the plain pass, permuted:
    ``f(x | λ=0, perm at k) == f(x)[perm]``, every one of them, and their gradient must reach what
    comes before the mix. The model is tried as it trains, with the chance taken out, on a copy with
    redrawn parameters, in float64 where its code allows that.

    Args:
        model: the model; nothing of it changes.
        names: the layers to try.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        run: ``run(copy, args, kwargs, plan)`` runs a forward pass that is mixed by ``plan``, or by
            nothing if it is None.

    Returns:
        A verdict on every layer.
    """
    try:
        with aside(model):
            bench = _prepare(model, args, kwargs, run)
            return Report(tuple(bench.prove(name) for name in names))
    except _Inconclusive as error:
        return Report(tuple(LayerProof(name, "inconclusive", str(error)) for name in names))
    except NotTraceable as error:
        return Report(tuple(LayerProof(name, "skipped", str(error)) for name in names))


class _Inconclusive(Exception):
    """The model says nothing about mixing even unmixed."""


def _prepare(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], run: RunModel
) -> "_Bench":
    """Set a copy up and run it unmixed, in float64 or, failing that, in float32."""
    for dtype in (torch.float64, torch.float32):
        clone = copy_model(model)
        try:
            clone = clone.to(dtype)
            redraw_parameters(clone)
            bench = _Bench(clone, draw_examples(clone, args, kwargs, _ROWS, dtype), run)
            bench.calibrate()
        except _Inconclusive:
            raise
        except Exception as failed:  # whatever the model's own code cannot do in this type
            error = failed
        else:
            return bench
    reason = f"its forward pass does not run on a copy ({type(error).__name__}: {error})"
    raise NotTraceable(reason) from error


class _Bench:
    """A copy of the model to try layers on, and what it gives unmixed."""

    def __init__(self, model: nn.Module, arguments: Arguments, run: RunModel) -> None:
        self.model = model
        self.arguments = arguments
        self.run = run
        self.modules = list(model.modules())
        self.state = copy.deepcopy([module._buffers for module in self.modules])
        self.devices = {tensor.device.type for _, tensor in named_inputs(model, *arguments)}
        self.perm = torch.arange(_ROWS, device="cpu").roll(-1)
        self.plain: dict[str, Tensor] = {}
        self.rounding: dict[str, float] = {}
        self.difference: dict[str, float] = {}

    def calibrate(self) -> None:
        """Find out what the unmixed model does when its examples are reordered.

        Raises:
            _Inconclusive: its outputs do not tell examples apart, or are not its examples' own.
        """
        self.plain = self._unmixed(self.arguments)
        again = self._unmixed(self.arguments)
        moved = self._unmixed(permute_examples(self.model, self.arguments, self.perm))
        for path, plain in self.plain.items():
            if not bool(plain.isfinite().all()):
                raise _Inconclusive("the outputs are not finite with redrawn parameters")
            unsteady = _distance(again[path], plain)
            order = _distance(moved[path], plain[self.perm])
            floor = torch.finfo(plain.dtype).eps * float(plain.abs().max())
            self.rounding[path] = max(floor, unsteady, order)
            self.difference[path] = _difference(plain, self.perm)
            difference = self.difference[path]
            if 0 < difference < _TELLING * self.rounding[path]:
                raise _Inconclusive(_why_silent(floor, unsteady, order, difference))
        if not self.plain:
            raise _Inconclusive("no floating point output has the batch as its dimension 0")
        # A constant that the model returns as well says nothing, but the other outputs may.
        self.plain = {path: self.plain[path] for path in self.plain if self.difference[path] > 0}
        if not self.plain:
            raise _Inconclusive("all examples give the same outputs. Pass examples that differ")

    def prove(self, layer: str) -> LayerProof:
        """Try one layer."""
        plan = MixPlan(layer, lam=torch.tensor(0.0, device="cpu"), perm=self.perm)
        try:
            with self._watch(layer) as before:
                mixed = self.outputs(self.arguments, plan)
            errors = {p: _distance(mixed[p], plain[self.perm]) for p, plain in self.plain.items()}
            path = max(errors, key=lambda path: errors[path] / self.rounding[path])
            verdict, reason = self._judge(path, errors[path])
            if verdict == "proven" and _detached(before, mixed):
                verdict, reason = (
                    "failed",
                    "no gradient gets from the mixed state to before the mix",
                )
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

    def _unmixed(self, arguments: Arguments) -> dict[str, Tensor]:
        # Without their graphs, which would hold every activation of the pass.
        return {path: tensor.detach() for path, tensor in self.outputs(arguments, None).items()}

    def outputs(self, arguments: Arguments, plan: MixPlan | None) -> dict[str, Tensor]:
        """Run the copy, always from the same state; return its outputs of the batch by path."""
        # Statistics, power iterations, whatever the pass before kept: they may have a new shape.
        for module, buffers in zip(self.modules, copy.deepcopy(self.state), strict=True):
            module._buffers.update(buffers)
        arguments = permute_examples(self.model, arguments, torch.arange(_ROWS, device="cpu"))
        with aside(self.model), _full_precision(self.devices), Neutral():
            output = self.run(self.model, *arguments, plan)
        return {
            path: tensor
            for path, tensor in leaves(output)
            if tensor.is_floating_point() and tensor.ndim > 0 and len(tensor) == _ROWS
        }

    @contextmanager
    def _watch(self, layer: str) -> Iterator[list[Tensor]]:
        """Collect the layer's state as it is before the mix: the first hook is the first to run."""
        before: list[Tensor] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            before.extend(tensor for _, tensor in leaves(output) if tensor.requires_grad)

        with ExitStack() as stack:
            if not is_input(layer):
                module = named_layers(self.model)[layer]
                stack.callback(module.register_forward_hook(note).remove)
            yield before


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


def _detached(before: list[Tensor], outputs: dict[str, Tensor]) -> bool:
    """Say whether the gradient of the outputs gets lost on its way to the state before the mix."""
    ends = [output for output in outputs.values() if output.requires_grad]
    if not before:
        return False
    # Weights of no symmetry: those of a softmax sum to a constant.
    weights = [torch.linspace(1, 2, e.numel(), device=e.device).sin().view_as(e) for e in ends]
    loss = sum(((e * w).sum() for e, w in zip(ends, weights, strict=True)), torch.zeros(()))
    if not loss.requires_grad:
        return True
    grads = torch.autograd.grad(loss, before, allow_unused=True)
    return not any(grad is not None and bool(grad.any()) for grad in grads)


@contextmanager
def _full_precision(devices: set[str]) -> Iterator[None]:
    """Switch off an autocast that the caller is in."""
    with ExitStack() as stack:
        for device in devices:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
