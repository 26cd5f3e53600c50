"""Recordings of a model's forward pass with two batch sizes, without touching the model.

They are made on fake tensors, which cost no memory and no arithmetic; where the model's Python code
needs values, on a copy with two rows.
"""

from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._copies import NotTraceable, aside, copy_model, fake_copy, fakes_fail_silently
from manifold_mixup._inputs import batched_names, leading, map_inputs, named_inputs
from manifold_mixup._layers import named_layers
from manifold_mixup._masks import shortened
from manifold_mixup._neutral import Neutral
from manifold_mixup._record import Trace, record


@dataclass
class Traces:
    """The same forward pass twice.

    Attributes:
        first: with the batch of the example (on a copy: two rows of it).
        second: with twice as many rows; None where the model runs with one batch size only.
        layers: names of all layers of the model, whether they ran or not.
        fake: whether fake tensors could be used.
    """

    first: Trace
    second: Trace | None
    layers: tuple[str, ...]
    fake: bool


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    neutral: Neutral,
    mask: str | None = None,
) -> Traces:
    """Record a forward pass of a copy of ``model``, as it trains, with two batch sizes.

    Args:
        model: the model; nothing of it changes.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        neutral: what random operators give.
        mask: name of an input that is a side input, whatever it looks like.

    Raises:
        NotTraceable: neither fake tensors nor a copy on two rows would run.
        ValueError: there is no tensor among the arguments.
    """
    rows = len(leading(list(named_inputs(model, args, kwargs))))
    with aside(model):
        # Whatever fake tensors cannot do, anywhere in the model's code: a copy can, or says why.
        with suppress(Exception), fakes_fail_silently():
            return _Recording.on_fake_tensors(model, args, kwargs, rows, neutral, mask).traces()
        recording = _Recording(copy_model(model), args, kwargs, rows, 2, neutral, mask)
        try:
            return recording.traces()
        except NotTraceable:
            raise
        except Exception as error:
            reason = f"its forward pass does not run on a copy ({type(error).__name__}: {error})"
            raise NotTraceable(reason) from error


@dataclass
class _Recording:
    """A copy of the model and the batch to record it with."""

    clone: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: int
    first: int
    neutral: Neutral
    mask: str | None
    fake_mode: Any = None

    @classmethod
    def on_fake_tensors(
        cls,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        rows: int,
        neutral: Neutral,
        mask: str | None,
    ) -> "_Recording":
        from torch._subclasses.fake_tensor import FakeTensorMode

        mode = FakeTensorMode(allow_non_fake_inputs=True)
        # BatchNorm refuses a single value per channel while it trains.
        return cls(fake_copy(model, mode), args, kwargs, rows, max(rows, 2), neutral, mask, mode)

    def traces(self) -> Traces:
        """Record both passes."""
        first, second = self._both()
        layers = tuple(named_layers(self.clone))
        if layers and not first.runs:
            raise NotTraceable("the forward pass of a copy runs none of the copy's own modules")
        return Traces(first, second, layers, self.fake_mode is not None)

    def _both(self) -> tuple[Trace, Trace | None]:
        for batched in batched_names(list(named_inputs(self.clone, self.args, self.kwargs))):
            try:
                return self._record(self.first, batched), self._record(2 * self.first, batched)
            except Exception as failed:
                error = failed
        try:
            return self._record(self.rows, frozenset()), None
        except Exception:
            raise error from None

    def _record(self, batch: int, batched: frozenset[str]) -> Trace:
        def resize(name: str, tensor: Tensor) -> Tensor:
            rows = batch if name in batched else len(tensor) if tensor.ndim else None
            return self._like(name, tensor, rows)

        with self.fake_mode or nullcontext():
            args, kwargs = map_inputs(resize, self.clone, self.args, self.kwargs)
        return record(self.clone, args, kwargs, batch, self.fake_mode, self.neutral, self.mask)

    def _like(self, name: str, tensor: Tensor, rows: int | None) -> Tensor:
        """Make a tensor like this one with another number of rows; None for a single number."""
        if self.fake_mode is not None:
            shape = () if rows is None else (rows, *tensor.shape[1:])
            new = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
        elif rows is None:
            new = tensor.detach().clone()
        else:
            new = tensor.detach()[torch.arange(rows, device=tensor.device) % max(len(tensor), 1)]
            # The model's code may leave out a mask of no padding.
            new = shortened(new, name) if name == self.mask else new
        return new.requires_grad_(tensor.requires_grad)
