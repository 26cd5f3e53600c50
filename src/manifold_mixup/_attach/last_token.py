"""Mix the position that a model takes of each sequence: that of the last token, mostly.

In a mixed sequence, the position that belongs to row ``i`` is chosen by the ids or the mask of
example ``i``. Its partner's is another one. The state taken for row ``i`` is ``lam`` times the one
at its own position plus ``1 - lam`` times the one at its partner's, both of the mixed sequence: at
λ = 1 the example's own, at λ = 0 exactly the partner's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd, _mix
from manifold_mixup._attach.hooks import ActivePlan, AfterLayerHook, LayerHook, put_on
from manifold_mixup._attach.passes import Passes
from manifold_mixup._interpolate import over_rows
from manifold_mixup._structure.row import InputRow, LayerRow
from manifold_mixup._tree import leaves, map_leaves


class MixedSequences(Tensor):
    """Mixed states ``(batch, time, ...)``, of which the model takes one position of each row."""

    lam: Tensor
    perm: Tensor

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function on the plain states; a choice of positions gives their mix."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():  # which also gives plain results
            plain = func(*args, **kwargs)
            if func not in _POSITION_FUNCTIONS or not isinstance(args[0], cls):
                return plain
            states = args[0]
            partners = _arguments_of_partners(func, args, kwargs, states.perm)
            if partners is None:
                return plain
            other = func(*partners[0], **partners[1])
            lam = states.lam.to(plain.device, plain.dtype)
            if lam.ndim and len(plain) != len(lam):  # a mask chose several of each row
                lam = lam.repeat_interleave(len(plain) // len(lam))
            return torch.lerp(other, plain, over_rows(lam, plain))


_POSITION_FUNCTIONS = {Tensor.__getitem__, Tensor.gather, torch.gather, torch.take_along_dim}
_POSITION_FUNCTIONS |= {Tensor.take_along_dim}


def _arguments_of_partners(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], perm: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments that take the positions of the partners; None if none are taken."""
    if func is Tensor.__getitem__:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        if _is_position_mask(index[0], perm):
            return (args[0], (_of_partners(index[0], perm), *index[1:])), {}
        if len(index) < 2 or not _is_position_index(index[1], perm):
            return None
        return (args[0], (index[0], _of_partners(index[1], perm), *index[2:])), {}
    partners = tuple(
        _of_partners(value, perm) if _is_position_index(value, perm) else value for value in args
    )
    named = {
        key: _of_partners(value, perm) if _is_position_index(value, perm) else value
        for key, value in kwargs.items()
    }
    return partners, named


def _is_position_mask(value: Any, perm: Tensor) -> bool:
    """Return whether an index is a mask of positions; raise unless it marks as many of each row."""
    if not (isinstance(value, Tensor) and value.dtype == torch.bool and value.ndim > 1):
        return False
    if value.shape[:1] != perm.shape:
        return False
    marked = value.flatten(1).sum(1)
    if not torch.compiler.is_compiling() and not bool((marked == marked[0]).all()):
        raise RuntimeError(
            f"the model takes positions of each sequence by a mask that marks {marked.tolist()} of "
            f"them, so those of two examples cannot be mixed one to one. Mark as many in each, "
            f"such as the last end token alone."
        )
    return True


def _of_partners(positions: Tensor, perm: Tensor) -> Tensor:
    return positions.index_select(0, perm.to(positions.device))


def _is_position_index(value: Any, perm: Tensor) -> bool:
    whole = isinstance(value, Tensor) and not value.is_floating_point()
    return whole and value.dtype != torch.bool and value.shape[:1] == perm.shape


class LastTokenHook(AfterLayerHook):
    """Marks the output of a module of which the model takes one position of each row."""

    def __init__(
        self, owner: object, active: ActivePlan, passes: Passes, layers: Mapping[str, LayerHook]
    ) -> None:
        super().__init__(owner, active, passes, layers)
        self.paths: dict[str, set[str]] = {}  # for each mixed layer, the tensors
        self.run_eagerly = torch.compiler.disable(_autograd.unseen(self._run_eagerly))

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output marked, or None to keep it as it is."""
        if torch.compiler.is_compiling():
            layer, lam, perm = self.active.layer, self.active.lam, self.active.perm
            if layer not in self.paths or lam is None or perm is None:
                return None
            self.note_trace()
            return self._mark(self.paths[layer], output, lam, perm)
        return self.run_eagerly(output)

    def _run_eagerly(self, output: Any) -> Any:
        found = self.mixed_pass(self.paths)
        if found is None:
            return None
        _, plan = found
        return self._mark(self.paths[plan.layer], output, plan.lam, plan.perm)

    def _mark(self, paths: set[str], output: Any, lam: Tensor, perm: Tensor) -> Any:
        def mark(path: str, tensor: Tensor) -> Tensor:
            if path not in paths or not _mix.is_continuous(tensor):
                return tensor
            marked = tensor.as_subclass(MixedSequences)
            marked.lam, marked.perm = lam, perm
            return marked

        return map_leaves(mark, output)


class LastTokenHooks:
    """The hooks of an attachment on modules of whose output positions are taken."""

    def __init__(
        self,
        owner: object,
        *,
        active: ActivePlan,
        passes: Passes,
        layers: Mapping[str, LayerHook],
    ) -> None:
        self._hook_arguments = owner, active, passes, layers
        self.hooks: dict[str, LastTokenHook] = {}

    def record_row(self, layer: str, row: LayerRow | InputRow) -> None:
        """Store the modules after a layer of whose output positions are taken."""
        for earlier in self.hooks.values():
            earlier.paths.pop(layer, None)
        for end in row.ends:
            hook = self.hooks.setdefault(end.layer, LastTokenHook(*self._hook_arguments))
            hook.paths.setdefault(layer, set()).add(end.path)

    def refuse_whole_sequences(self, output: Any) -> None:
        """Raise if a model returns whole sequences, of which it took one position before."""
        if self.hooks and any(isinstance(tensor, MixedSequences) for _, tensor in leaves(output)):
            names = " or ".join(map(repr, self.hooks))
            raise RuntimeError(
                f"the model returns all positions of the output of {names}, of which it took one "
                f"when it was inspected. Attach again, with an example of what it trains on."
            )

    def register(self, model: nn.Module) -> list[Any]:
        """Register new hooks on the model's modules, and return their handles."""
        return put_on(model, self.hooks)
