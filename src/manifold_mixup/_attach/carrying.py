"""Mix what a depth carries besides the layer's output, where later modules receive or make it."""

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd, _mix
from manifold_mixup._attach.hooks import ActivePlan, AfterLayerHook, LayerHook, put_on
from manifold_mixup._attach.packed import require_equal_lengths
from manifold_mixup._attach.passes import Passes
from manifold_mixup._batch_dim import BatchDim, mix_rows
from manifold_mixup._structure.row import Carry, InputRow, LayerRow, named
from manifold_mixup._tree import leaves, replace_at
from manifold_mixup._weigh.completion import PlanFields, share_of_targets
from manifold_mixup._weigh.place import Place
from manifold_mixup._weigh.state import mix_state


class CarryHook(AfterLayerHook):
    """Mixes some tensors that a module receives or returns, when the active plan's layer has run.

    Attributes:
        carries: for each mixed layer, the tensors.
        padded: the mixed layers after which a padding mask is mixed too.
        places: for each mixed layer, where each of the tensors holds positions.
        parts: for each mixed layer, the number of each tensor, which has noise of its own.
    """

    def __init__(
        self, owner: object, active: ActivePlan, passes: Passes, layers: Mapping[str, LayerHook]
    ) -> None:
        super().__init__(owner, active, passes, layers)
        self.carries: dict[str, list[Carry]] = {}
        self.padded: set[str] = set()
        self.places: dict[str, list[Place | None]] = {}
        self.parts: dict[str, list[int]] = {}
        self.run_eagerly = torch.compiler.disable(_autograd.unseen(self._run_eagerly))

    def mix(self, values: Any) -> Any:
        """Return the values with the carried tensors mixed, or None to keep them as they are."""
        if torch.compiler.is_compiling():
            layer = self.active.layer
            if layer not in self.carries:
                return None
            if self.carries[layer][0].early and not self.active.mixed:
                return None  # it runs before the layer
            self.note_trace()
            return self._mix(layer, values, self.active, self.active.valid, None)
        return self.run_eagerly(values)

    def _run_eagerly(self, values: Any) -> Any:
        found = self.mixed_pass(self.carries)
        if found is None:
            return None
        running, plan = found
        cache = running.carried if running is self.passes.running else None
        what = f"a module after {plan.layer!r} was given or returned"
        require_equal_lengths(values, plan.batch, what)
        mixed = self._mix(plan.layer, values, plan, running.valid, cache)
        if mixed is not None and running.copies is not None:
            running.copies.note(values, mixed)
        return mixed

    def _mix(
        self,
        layer: str,
        values: Any,
        plan: PlanFields,
        valid: Tensor | None,
        cache: list[tuple[Tensor, Tensor]] | None,
    ) -> Any:
        tensors = dict(leaves(values))
        valid = valid if layer in self.padded else None
        mixed = {}
        each = zip(self.carries[layer], self.places[layer], self.parts[layer], strict=True)
        for carry, place, part in each:
            tensor = tensors.get(carry.path)
            if tensor is None or not _mix.is_continuous(tensor):
                continue  # a model may omit a condition
            # Several modules may receive the same tensor, which is then mixed once.
            found = [done for source, done in cache or () if source is tensor]
            if not found:
                _require_rows(carry, tensor, plan.perm)
                found = [_mixed(tensor, carry.batch_dim, plan, valid, place, part)]
                if cache is not None:
                    cache.append((tensor, found[0]))
            mixed[carry.path] = found[0]
        return replace_at(mixed, values) if mixed else None


def _mixed(
    tensor: Tensor,
    at: BatchDim | None,
    plan: PlanFields,
    valid: Tensor | None,
    place: Place | None,
    part: int,
) -> Tensor:
    """Mix a carried tensor; one without positions by the share of the labels."""
    if plan.weight is None or place is not None:
        return mix_state(tensor, at, plan, valid, place, part)
    mixed = mix_rows(tensor, at, share_of_targets(plan), plan.perm, repeats=plan.repeats)
    return mixed if plan.noise is None else plan.noise.on(mixed, part)


class ArgumentHook(CarryHook):
    """A forward pre-hook on a module that receives carried tensors."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return the arguments with carried tensors mixed."""
        return self.mix((args, kwargs))


class OutputHook(CarryHook):
    """A forward hook on a module that makes states of carried ids."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output mixed."""
        return self.mix(output)


def _require_rows(carry: Carry, tensor: Tensor, perm: Tensor) -> None:
    at = carry.batch_dim or BatchDim()
    if not at.fits(tensor.shape, perm.shape[0]):
        raise ValueError(
            f"{named(carry.source)} should be mixed where {carry.layer!r} "
            f"{'returns' if carry.output else 'receives'} it, in {perm.shape[0]} examples, but it "
            f"has shape {tuple(tensor.shape)}: dimension {at.dim} must be the batch."
        )


class CarryHooks:
    """The hooks of an attachment on the modules that receive carried tensors."""

    def __init__(
        self,
        owner: object,
        *,
        active: ActivePlan,
        passes: Passes,
        layers: Mapping[str, LayerHook],
    ) -> None:
        self._hook_arguments = owner, active, passes, layers
        self._arguments: dict[str, ArgumentHook] = {}
        self._outputs: dict[str, OutputHook] = {}

    def record_row(
        self,
        layer: str,
        row: LayerRow | InputRow,
        *,
        padded: bool,
        places: Mapping[Carry, Place] | None = None,
    ) -> None:
        """Store what is carried past a layer.

        Args:
            layer: name of the layer or input.
            row: its row.
            padded: whether a padding mask is mixed too.
            places: where carried tensors hold positions.
        """
        hooks: set[CarryHook] = set()
        for earlier in (*self._arguments.values(), *self._outputs.values()):
            earlier.carries.pop(layer, None)
            earlier.places.pop(layer, None)
            earlier.parts.pop(layer, None)
        for carry in row.carries:
            hook = self._hook(carry)
            hooks.add(hook)
            hook.carries.setdefault(layer, []).append(carry)
            hook.places.setdefault(layer, []).append((places or {}).get(carry))
            # not when mixing, because the compiler cannot trace it
            hook.parts.setdefault(layer, []).append(zlib.crc32(carry.source.encode()))
        for hook in hooks:
            (hook.padded.add if padded else hook.padded.discard)(layer)

    def _hook(self, carry: Carry) -> CarryHook:
        if carry.output:
            return self._outputs.setdefault(carry.layer, OutputHook(*self._hook_arguments))
        return self._arguments.setdefault(carry.layer, ArgumentHook(*self._hook_arguments))

    def register(self, model: nn.Module) -> list[Any]:
        """Register new hooks on the model's modules, and return their handles."""
        handles = put_on(model, self._arguments, before=True)
        return [*handles, *put_on(model, self._outputs)]
