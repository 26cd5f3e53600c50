"""Measure how much a position that one of two examples alone has counts for the others.

Between λ = 0 and 1 it has a weight between 0 and 1. A module that computes ``(1 - mask) * -1e4``
from such weights still forbids it, and one that computes ``mask > 0.3`` takes it as a whole,
although both are right at both ends.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._layers import is_input, module_name, named_layers
from manifold_mixup._mix import is_continuous
from manifold_mixup._module_hooks import hook_after, hook_before
from manifold_mixup._tree import leaves, replace_at

# Attention scores rarely differ by as much as the logarithm of this (35).
_NOTHING = 1e-15
# A gradient of more than this share of the largest, at all positions, cannot be nothing compared
# with what the same module has at λ = 1.
_FAINT = 1e-9


class Influence:
    """A forward hook on all modules that receive states and something that may be a mask.

    What a module does to positions in another way too, such as by a convolution, hides its mask,
    and reentrant checkpoints cannot be measured.

    Args:
        held: the valid positions of the examples, ``(batch, time)``.
        perm: the partners.
        layer: the layer that is mixed. What ended before it is as without mixing.
    """

    def __init__(self, held: Tensor, perm: Tensor, layer: str) -> None:
        partners = held[perm.to(held.device)]
        self.alone, self.both = held & ~partners, held & partners
        # Each module with its influence, and the largest of all positions.
        self.found: list[tuple[nn.Module, float, float]] = []
        self._rounded = False
        self._masks: dict[int, list[Tensor]] = {}  # by module: the masks that it was given
        self._before: list[tuple[nn.Module, Any]] = []  # our hooks before modules
        self._measuring = False
        self._layer, self._mixed = layer, is_input(layer)
        self._frozen: list[nn.Parameter] = []

    def put_on(self, model: nn.Module) -> None:
        """Register on all modules, and let frozen parameters have gradients."""
        if bool(self.alone.any()):
            self._frozen = [p for p in model.parameters() if _is_frozen(p)]
            for parameter in self._frozen:
                parameter.requires_grad_()
            for module in model.modules():
                if module is not model:
                    self._before.append((module, hook_before(module, self._follow_masks)))
                hook_after(module, self, with_kwargs=True)
            hook_before(model, self._move_to_end)
            if not self._mixed:
                hook_after(named_layers(model)[module_name(self._layer)], self._begin, prepend=True)

    def _begin(self, *_: Any) -> None:
        self._mixed = True

    def _move_to_end(self, *_: Any) -> None:
        """Put our hooks before modules behind those that mix masks, which were registered later."""
        for module, handle in self._before:
            module._forward_pre_hooks.move_to_end(handle.id)  # type: ignore[attr-defined]

    def _follow_masks(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Let the weights that a module is given have gradients, in checkpoints each time."""
        if not self._mixed:
            return None
        masks = {
            path: tensor.clone().requires_grad_()
            for path, tensor in leaves((args, kwargs))
            if self._may_be_mask(tensor) and is_continuous(tensor) and type(tensor) is Tensor
        }
        self._masks[id(module)] = list(masks.values())
        return replace_at(masks, (args, kwargs)) if masks else None

    def restore(self) -> None:
        """Freeze again what was frozen."""
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Measure a module that has just run."""
        if not self._mixed:
            return
        given = [tensor for _, tensor in leaves((args, kwargs))]
        states = [
            tensor for tensor in given if tensor.requires_grad and self._has_positions(tensor)
        ]
        ends = [t for _, t in leaves(output) if t.requires_grad and is_continuous(t)]
        masked = bool(self._masks.get(id(module))) or any(map(self._may_be_mask, given))
        if states and ends and masked and not self._measuring:
            self._measuring = True  # a checkpoint may run modules again
            weights = self._masks.get(id(module), [])
            self.found.append((module, *self._measure(states[0], ends[0], weights)))
            self._measuring = False

    def _has_positions(self, tensor: Tensor) -> bool:
        return is_continuous(tensor) and tensor.shape[:2] == self.alone.shape

    def _may_be_mask(self, tensor: Tensor) -> bool:
        rows, positions = self.alone.shape
        shape = tensor.shape
        return not tensor.requires_grad and shape[:1] == (rows,) and positions in shape[1:]

    def _measure(self, state: Tensor, end: Tensor, masks: list[Tensor]) -> tuple[float, float]:
        """Return the largest gradient, of positions of both, at those that one has, and at all.

        If it is not 0, but that of the masks is, note that the module rounds their weights.
        """
        end = end[self.both.to(end.device)] if self._has_positions(end) else end
        # Asymmetric weights, because the outputs of a norm sum to a constant.
        weights = torch.linspace(1, 2, end.numel()).sin().view_as(end).to(end)
        end = (end * weights).sum()
        try:
            gradient, *of_masks = torch.autograd.grad(
                end, [state, *masks], retain_graph=True, materialize_grads=True
            )
        except RuntimeError as error:
            if "checkpoint" not in str(error).lower():
                raise
            return 0.0, 0.0  # a reentrant checkpoint gives no gradients of parts
        size = gradient.abs()
        inside = float(size[self.alone.to(size.device)].max())
        self._rounded |= inside > 0 and bool(masks) and not any(map(_any, of_masks))
        return inside, float(size.max())

    def is_rounded(self) -> bool:
        """Return whether a module lets such positions count, but not by their weights."""
        return self._rounded

    def is_faint(self) -> bool:
        """Return whether a module may have lost its influence, so that λ = 1 must be measured."""
        return any(not inside > _FAINT * of_all for _, inside, of_all in self.found)  # also NaN

    def lost(self, middle: "Influence") -> bool:
        """Return whether a module has influence at λ = 1, where this was measured, but none later.

        Args:
            middle: the measurement between the ends.
        """
        pairs = zip(self.found, middle.found, strict=False)
        return any(
            module is other and math.isfinite(end) and end > 0 and inside <= _NOTHING * end
            for (module, end, _), (other, inside, _) in pairs
        )


def _any(gradient: Tensor) -> bool:
    return bool((gradient != 0).any())


def _is_frozen(parameter: nn.Parameter) -> bool:
    return is_continuous(parameter) and parameter.is_leaf and not parameter.requires_grad
