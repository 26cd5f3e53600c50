"""Measure how much a position that one of two examples alone has counts for the others.

Between λ = 0 and 1 it has a weight between 0 and 1. A module that computes ``(1 - mask) * -1e4``
from such weights still forbids it, and one that computes ``mask > 0.3`` takes it as a whole,
although both are right at both ends.
"""

import math
from collections.abc import Callable
from contextlib import suppress
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
        valid: the valid positions of the examples, ``(batch, time)``.
        perm: the partners.
        layer: the layer that is mixed. What ended before it is as without mixing.
        nested: measure also what only passes on the result of an influential module inside it.
    """

    def __init__(self, valid: Tensor, perm: Tensor, layer: str, *, nested: bool) -> None:
        partners = valid[perm.to(valid.device)]
        self.valid_in_one, self.valid_in_both = valid & ~partners, valid & partners
        # Each module with its influence, and the largest of all positions.
        self.measurements: list[tuple[nn.Module, float, float]] = []
        self._nested = nested
        self._influential: list[Tensor] = []  # results of modules with influence
        self._rounded = False
        # By module: the masks that it was given, and how many modules had been tried, and had been
        # found to have influence, before it ran.
        self._state_before: dict[int, tuple[dict[str, Tensor], int, int]] = {}
        self._tried_count = 0  # how many modules were run again with other masks
        self._pre_hooks: list[tuple[nn.Module, Any]] = []  # our hooks before modules
        self._measuring = False
        self._layer, self._layer_reached = layer, is_input(layer)
        self._layer_module: nn.Module | None = None  # that of the layer
        self._frozen: list[nn.Parameter] = []

    def put_on(self, model: nn.Module) -> None:
        """Register on all modules, and let frozen parameters have gradients."""
        if bool(self.valid_in_one.any()):
            self._frozen = [p for p in model.parameters() if _is_frozen(p)]
            for parameter in self._frozen:
                parameter.requires_grad_()
            for module in model.modules():
                if module is not model:
                    self._pre_hooks.append((module, hook_before(module, self._keep_masks)))
                hook_after(module, self, with_kwargs=True)
            hook_before(model, self._move_pre_hooks_to_end)
            if not self._layer_reached:
                self._layer_module = named_layers(model)[module_name(self._layer)]
                hook_after(self._layer_module, self._note_layer_reached, prepend=True)

    def _note_layer_reached(self, *_: Any) -> None:
        self._layer_reached = True

    def _move_pre_hooks_to_end(self, *_: Any) -> None:
        """Put our hooks before modules behind those that mix masks, which were registered later."""
        for module, handle in self._pre_hooks:
            module._forward_pre_hooks.move_to_end(handle.id)  # type: ignore[attr-defined]

    def _keep_masks(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep the weights that a module is given, which it may write into."""
        if not self._layer_reached or self._measuring:
            return
        masks = {
            path: tensor.detach().clone()
            for path, tensor in leaves((args, kwargs))
            if self._may_be_mask(tensor) and is_continuous(tensor) and type(tensor) is Tensor
        }
        self._state_before[id(module)] = masks, self._tried_count, len(self._influential)

    def restore(self) -> None:
        """Freeze again what was frozen, and let the graph go."""
        self._influential.clear()
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Measure a module that has just run."""
        if not self._layer_reached:
            return
        given = [tensor for _, tensor in leaves((args, kwargs))]
        states = [
            tensor for tensor in given if tensor.requires_grad and self._has_positions(tensor)
        ]
        ends = [t for _, t in leaves(output) if t.requires_grad and is_continuous(t)]
        if states and ends and any(map(self._may_be_mask, given)) and not self._measuring:
            self._measuring = True  # a checkpoint may run modules again
            inside, largest = math.inf, 0.0
            if self._nested or not self._passes_on(module, ends[0]):
                inside, largest = self._measure(states[0], ends[0])
            self.measurements.append((module, inside, largest))
            if inside > _FAINT * largest:
                self._influential.append(ends[0])
            if inside > 0 and not self._rounded:
                self._rounded = self._rounds(module, args, kwargs, ends[0])
            self._measuring = False

    def _passes_on(self, module: nn.Module, end: Tensor) -> bool:
        """Return whether a module passes on the result of one inside it that has influence.

        It does if its positions of both depend on those of that result. The graph between the two
        is short.
        """
        *_, before = self._state_before.get(id(module), ({}, 0, 0))
        if len(self._influential) == before:
            return False
        size = self._gradient(self._influential[-1], end)
        inside = size[self.valid_in_both.to(size.device)] if self._has_positions(size) else size
        return bool(inside.max() > _FAINT * size.max())

    def _has_positions(self, tensor: Tensor) -> bool:
        return is_continuous(tensor) and tensor.shape[:2] == self.valid_in_one.shape

    def _may_be_mask(self, tensor: Tensor) -> bool:
        rows, positions = self.valid_in_one.shape
        shape = tensor.shape
        return not tensor.requires_grad and shape[:1] == (rows,) and positions in shape[1:]

    def _measure(self, state: Tensor, end: Tensor) -> tuple[float, float]:
        """Return the largest gradient, of positions of both, at those that one has, and at all."""
        size = self._gradient(state, end)
        return float(size[self.valid_in_one.to(size.device)].max()), float(size.max())

    def _gradient(self, of: Tensor, end: Tensor) -> Tensor:
        """Return the size of the gradient of a result, at positions of both, by a tensor."""
        end = end[self.valid_in_both.to(end.device)] if self._has_positions(end) else end
        # Asymmetric weights, because the outputs of a norm sum to a constant.
        weights = torch.linspace(1, 2, end.numel()).sin().view_as(end).to(end)
        end = (end * weights).sum()
        try:
            (gradient,) = torch.autograd.grad(end, of, retain_graph=True, materialize_grads=True)
        except RuntimeError as error:
            if "checkpoint" not in str(error).lower():
                raise
            return torch.zeros_like(of).abs()  # a reentrant checkpoint gives no gradients of parts
        return gradient.abs()

    def _rounds(self, module: nn.Module, args: Any, kwargs: Any, end: Tensor) -> bool:
        """Return whether a module uses the weights between the ends, but is blind to their size.

        It is run again with others, instead of asking for gradients: it may use the weights without
        any, as in ``torch.no_grad()``, or write into them.
        """
        masks, tried, _ = self._state_before.get(id(module), ({}, 0, 0))
        if not any(bool(_between(mask).any()) for mask in masks.values()):
            return False
        if tried != self._tried_count or self._has_layer(module):
            return False  # a module inside it was tried, or would be mixed again
        self._tried_count += 1

        def run(change: Callable[[Tensor], Tensor | float]) -> Tensor:
            given = {path: t.detach().clone() for path, t in leaves((args, kwargs))}
            given |= {path: _changed(mask, change) for path, mask in masks.items()}
            again, options = replace_at(given, (args, kwargs))
            outputs = (tensor for _, tensor in leaves(module.forward(*again, **options)))
            return next(t for t in outputs if t.shape == end.shape and is_continuous(t))

        with torch.no_grad(), suppress(Exception):  # from a module that runs only once
            plain = run(lambda mask: mask)
            # A threshold may lie at λ itself, so on both sides of it.
            blind = not (
                _differ(plain, run(lambda mask: mask * 0.9))
                and _differ(plain, run(lambda mask: mask * 1.1))
            )
            return blind and _differ(
                run(lambda mask: _ends(mask)[0]), run(lambda mask: _ends(mask)[1])
            )
        return False

    def _has_layer(self, module: nn.Module) -> bool:
        """Return whether the layer that is mixed is a module or inside it."""
        return any(inner is self._layer_module for inner in module.modules())

    def is_rounded(self) -> bool:
        """Return whether a module lets such positions count, but not by their weights."""
        return self._rounded

    def is_faint(self) -> bool:
        """Return whether a module may have lost its influence, so that λ = 1 must be measured."""
        return any(
            not inside > _FAINT * of_all for _, inside, of_all in self.measurements
        )  # also NaN

    def lost(self, middle: "Influence") -> bool:
        """Return whether a module has influence at λ = 1, where this was measured, but none later.

        Args:
            middle: the measurement between the ends.
        """
        pairs = zip(self.measurements, middle.measurements, strict=False)
        return any(
            module is other and math.isfinite(end) and end > 0 and inside <= _NOTHING * end
            for (module, end, _), (other, inside, _) in pairs
        )


def _ends(mask: Tensor) -> tuple[float, float]:
    """Return what stands for padding and for a token, in either order; -1e4 is added to scores."""
    return (-1e4, 0.0) if bool((mask < 0).any()) else (0.0, 1.0)


def _changed(mask: Tensor, change: Callable[[Tensor], Tensor | float]) -> Tensor:
    """Return a mask of which all weights between the ends are changed."""
    return torch.where(_between(mask), change(mask), mask)


def _between(mask: Tensor) -> Tensor:
    low, high = _ends(mask)
    return (low < mask) & (mask < high)


def _differ(one: Tensor, other: Tensor) -> bool:
    return not torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _is_frozen(parameter: nn.Parameter) -> bool:
    return is_continuous(parameter) and parameter.is_leaf and not parameter.requires_grad
