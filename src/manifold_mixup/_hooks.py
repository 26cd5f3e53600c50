"""The hooks that stay on a model, and read what to mix from a switch.

They are registered once and never change, so that code compiled around them stays valid: per pass
only the values of the switch change, which the compiler guards.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import _masks, _mix
from manifold_mixup._passes import Pass, Passes
from manifold_mixup._readers import Reader
from manifold_mixup._tree import leaves, map_leaves, put

COMPILE_FIRST = (
    "manifold-mixup draws its plan outside of compiled code. With fullgraph=True, compile first "
    "and attach to the compiled model: ManifoldMixup(torch.compile(model, fullgraph=True), ...). "
    "Leave the criterion out of the compiled function. Before torch.export, remove() first."
)


class Switch:
    """What is mixed at present, as compiled code reads it: by attributes that it guards."""

    layer: str | None
    lam: Tensor | None
    perm: Tensor | None
    held: Tensor | None

    def __init__(self) -> None:
        self.runs = 0  # how often compiled code mixed in the pass at hand
        self.set(None)

    def set(self, turn: Pass | None) -> None:
        """Mix as this pass does from now on; None mixes nothing."""
        plan = None if turn is None else turn.plan
        self.layer = None if plan is None else plan.layer
        self.lam = None if plan is None else plan.lam
        self.perm = None if plan is None else plan.perm
        self.held = None if plan is None or turn is None else turn.held


class _NotScriptable(RuntimeError, AttributeError):
    pass


class Hook:
    """A hook on the model it was registered on; on copies of that model, nothing."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _get_inert, ()

    @property
    def __name__(self) -> str:
        # torch.jit.script asks hooks for their name; who merely looks finds none.
        raise _NotScriptable(
            "a model with Manifold Mixup attached cannot be scripted: remove() first."
        )


def inert(*_: Any, **__: Any) -> None:
    """Stand for a hook on a copied model."""


def _get_inert() -> Callable[..., None]:
    return inert


class EagerHook(Hook):
    """A hook that must run outside of compiled code."""

    def __init__(self, owner: object, run: Callable[..., Any]) -> None:
        self.owner = owner
        self.run = torch.compiler.disable(run, reason=COMPILE_FIRST)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


class BlockHook(EagerHook):
    """An eager hook on a block that is compiled by itself."""

    # Code of its own, for it is kept from the compiler (`never_alone`). That of the hooks on the
    # whole model is not: there fullgraph=True has to meet it, and say why it cannot go on.
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


class LayerHook(Hook):
    """Mixes the output of one eligible layer when it is this layer's turn."""

    def __init__(self, owner: object, layer: str, switch: Switch, passes: Passes) -> None:
        self.owner = owner
        self.layer = layer
        self.switch = switch
        self.passes = passes
        self.unmixed: Collection[str] = ()  # leaves of the output that nothing depends on
        self.masked = False  # whether a mask is read after it, and is mixed too
        self.traced = False
        self.counts = False  # whether compiled code may count its runs; else it notes its tracing
        self.watched = False  # whether the compiled block around it, if any, was seen
        self.looking = False  # whether it is to be seen where it stands among other hooks

        # Inside a compiled checkpoint no side effect is allowed, so nothing can be counted there.
        # But while being traced, code can leave a note that the mix is in it.
        def note_trace() -> bool:
            self.traced = True
            return True

        self.note_trace = torch.compiler.assume_constant_result(note_trace)
        self.run_eagerly = torch.compiler.disable(self._run_eagerly)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the mixed output, or None to leave it as it is."""
        if torch.compiler.is_compiling():
            lam, perm = self.switch.lam, self.switch.perm
            if self.switch.layer != self.layer or lam is None or perm is None:
                return None
            if self.counts:
                self.switch.runs += 1
            else:
                self.note_trace()
            return self._mix(output, lam, perm, self.switch.held)
        return self.run_eagerly(output)

    def _run_eagerly(self, output: Any) -> Any:
        turn = self.passes.at(self.layer)
        plan = None if turn is None else turn.plan
        if turn is None or plan is None or plan.layer != self.layer:
            return None
        return self._mix(output, plan.lam, plan.perm, turn.held)

    def _mix(self, output: Any, lam: Tensor, perm: Tensor, held: Tensor | None) -> Any:
        mixed = []
        held = held if self.masked else None

        def mix_leaf(path: str, tensor: Tensor) -> Tensor:
            if not _mix.is_continuous(tensor) or path in self.unmixed:
                return tensor
            if tensor.ndim == 0 or tensor.shape[0] != perm.shape[0]:
                raise ValueError(
                    f"layer {self.layer!r} was to mix {perm.shape[0]} examples, but its output"
                    f"{path and f' at {path!r}'} has shape {tuple(tensor.shape)}: dimension 0 must "
                    f"be the batch. Choose a layer whose output has the batch there."
                )
            mixed.append(path)
            if held is not None and tensor.shape[1:2] == held.shape[1:]:
                return _masks.mix_states(tensor, lam, perm, held)
            return _mix.apply(tensor, lam, perm)

        result = map_leaves(mix_leaf, output)
        if not mixed:
            raise ValueError(
                f"layer {self.layer!r} was to be mixed, but its output, a {type(output).__name__}, "
                f"holds no floating point tensor on which the model's output is known to depend. "
                f"Choose another layer."
            )
        return result


class MaskHook(Hook):
    """Hands a module that reads a mask after the mixed layer the mixed mask."""

    def __init__(
        self, owner: object, switch: Switch, passes: Passes, layers: Mapping[str, LayerHook]
    ) -> None:
        self.owner = owner
        self.switch = switch
        self.passes = passes
        self.layers = layers
        # By mixed layer, what of the module's arguments is a mask.
        self.reads: dict[str, list[Reader]] = {}
        self.run_eagerly = torch.compiler.disable(self._run_eagerly)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return the arguments with mixed masks, or None to leave them."""
        if torch.compiler.is_compiling():
            layer, held = self.switch.layer, self.switch.held
            lam, perm = self.switch.lam, self.switch.perm
            if layer not in self.reads or lam is None or perm is None or held is None:
                return None
            # Blocks that are given the same mask do the same work: the compiler sees that.
            return self._mix(layer, (args, kwargs), lam, perm, held, [])
        return self.run_eagerly(args, kwargs)

    def _run_eagerly(self, args: Any, kwargs: Any) -> Any:
        turn = self.passes.current()
        plan = None if turn is None else turn.plan
        if turn is None or plan is None or turn.held is None or plan.layer not in self.reads:
            return None
        layer = self.layers.get(plan.layer)
        if layer is not None and not (turn.runs[plan.layer] or self.switch.runs or layer.traced):
            return None  # skipped this time, and so not mixed
        return self._mix(plan.layer, (args, kwargs), plan.lam, plan.perm, turn.held, turn.masks)

    def _mix(
        self,
        layer: str,
        given: Any,
        lam: Tensor,
        perm: Tensor,
        held: Tensor,
        known: list[tuple[Tensor, Any, Tensor]],
    ) -> Any:
        tensors = dict(leaves(given))
        floating = (tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        dtype = next(floating, torch.float32)
        mixed = {}
        for reader in self.reads[layer]:
            mask, form = tensors.get(reader.path), (dtype, reader.pools)
            if mask is None:
                continue  # a model may leave out a mask that masks nothing
            found = [done for source, its, done in known if source is mask and its == form]
            if not found:
                found = [_masks.mix_mask(mask, lam, perm, held, dtype=dtype, weights=reader.pools)]
                known.append((mask, form, found[0]))
            mixed[reader.path] = found[0]
        return put(mixed, given) if mixed else None
