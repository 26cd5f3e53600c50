"""Notice a criterion that changes what it is given, or what it holds, and so its second result."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from manifold_mixup._arguments import Call, name_of
from manifold_mixup._losses import Criterion, eager
from manifold_mixup._tree import leaves

# What one tensor was when it was looked at: the tensor itself, and how often it was written to.
Seen = tuple[Tensor, int]


class Unwritten:
    """The tensors of a call and the state of its criterion, as they have to stay.

    Writes count by PyTorch's version counters. Those through ``.data`` or NumPy count nowhere.

    Args:
        criterion: what is called.
        call: with what it is called.
        holders: the dicts of the criterion that hold its buffers and other attributes.
    """

    def __init__(
        self, criterion: Criterion, call: Call, holders: list[tuple[str, dict[str, Any]]]
    ) -> None:
        self.criterion = criterion
        self._call = call
        self._given = [(tensor, tensor._version) for tensor in _tracked(call)]
        self._holders = holders
        self._held = list(_held(holders))

    @property
    def _buffers(self) -> set[str]:
        criterion = self.criterion
        known = eager(criterion).named_buffers() if isinstance(criterion, nn.Module) else ()
        return {name for name, _ in known}

    def check(self) -> None:
        """Raise RuntimeError if anything was changed since."""
        for tensor, version in self._given:
            if tensor._version != version:
                raise RuntimeError(self._written(tensor))
        if self._holders:
            now = dict(_held(self._holders))
            for name, (tensor, version) in self._held:
                other, times = now.get(name, (None, 0))
                # Other attributes are often set anew to be logged, which changes no result.
                same = other is tensor and times == version
                if not same and (other is tensor or name in self._buffers):
                    raise RuntimeError(self._changed(name))

    def _written(self, tensor: Tensor) -> str:
        places = [
            key if isinstance(key, str) else f"argument {key}"
            for key in (*range(len(self._call.args)), *self._call.options)
            if any(leaf is tensor for _, leaf in leaves(self._call[key]))
        ]
        return (
            f"{name_of(self.criterion)} writes in place into {places[0]} (of shape "
            f"{tuple(tensor.shape)}), but it is evaluated for the targets of the examples and for "
            f"those of their partners, and the second time it would see what the first has "
            f"written. Clone it first in the criterion: x = x.clone()."
        )

    def _changed(self, name: str) -> str:
        return (
            f"{name_of(self.criterion)} changes its {name!r} when it is called, but it is "
            f"evaluated for the targets of the examples and for those of their partners, and the "
            f"second time it would work with what the first has changed. Update it outside of the "
            f"criterion, once a batch, or wrap the criterion in eval mode if it leaves it then."
        )


def holders(criterion: Criterion) -> list[tuple[str, dict[str, Any]]]:
    """List where a criterion may keep tensors that are no parameters, each with its path."""
    if not isinstance(criterion, nn.Module):
        own = getattr(criterion, "__dict__", None)
        return [("", own)] if own and any(isinstance(one, Tensor) for one in own.values()) else []
    return [
        (f"{path}." if path else "", held)
        for path, module in eager(criterion).named_modules()
        for held in (module._buffers, vars(module))
        if held is module._buffers or any(isinstance(one, Tensor) for one in held.values())
    ]


def _held(places: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, Seen]]:
    for path, held in places:
        for name, value in held.items():
            if isinstance(value, Tensor) and not value.is_inference():
                yield path + name, (value, value._version)


def _tracked(call: Call) -> list[Tensor]:
    """List the tensors of a call that count how often they are written to."""
    found = []
    for value in (*call.args, *call.options.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif not (value is None or isinstance(value, str | int | float)):
            found += [leaf for _, leaf in leaves(value)]
    return [tensor for tensor in found if not tensor.is_inference()]
