"""Record a model's forward pass with two batch sizes, without changing the model.

The dry runs use fake tensors, which need no memory and no arithmetic. If the model's Python code
needs values, they use copies of its tensors, with two rows.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import _own_calls
from manifold_mixup._dry_run import stand_ins as _stand_ins
from manifold_mixup._dry_run.errors import Hookless, NotTraceable
from manifold_mixup._dry_run.left_behind import FakeTensorWatch
from manifold_mixup._dry_run.neutral import Neutral
from manifold_mixup._dry_run.side_effects import (
    in_own_context,
    own_conversions,
    without_collections,
)
from manifold_mixup._dry_run.stage import Stage, require_runnable, staged_with
from manifold_mixup._graphs import graphs_in
from manifold_mixup._inputs import batched_names, leading, leading_names, map_inputs, named_inputs
from manifold_mixup._layers import named_layers
from manifold_mixup._masks import is_full, shortened, with_short_examples
from manifold_mixup._structure.follow import Follower
from manifold_mixup._structure.record import Recorder, record
from manifold_mixup._structure.recorded import Trace


@dataclass
class Traces:
    """The recordings of one forward pass with two batch sizes.

    Attributes:
        first: recorded with the batch of the example (two rows of it, if values are needed).
        second: recorded with twice as many rows; None if the model runs with one batch size only.
        layers: names of all layers of the model, whether they ran or not.
        fake: whether fake tensors could be used.
        lead: name of the input whose dimension 0 is the batch.
        scripted: whether a part of the model is TorchScript.
        graphs: whether the batch is one of graphs, of which ``lead`` holds the number of each node.
    """

    first: Trace
    second: Trace | None
    layers: tuple[str, ...]
    fake: bool
    lead: str
    scripted: bool = False
    graphs: bool = False

    @property
    def follows(self) -> bool:
        """Return whether an output has as many rows as the batch, in both recordings."""
        trace = self.second or self.first
        return any(leaf.shape[:1] == (trace.batch,) for leaf in trace.outputs if leaf.floating)


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    neutral: Neutral,
    mask: str | None = None,
) -> Traces:
    """Record a forward pass of ``model`` in train mode, with two batch sizes.

    If the inputs differ in length, the batch is the length that an output follows.

    Args:
        model: the model. It runs on stand-ins and does not change.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        neutral: the mode that neutralises random operators.
        mask: name of an input that always counts as a side input.

    Raises:
        NotTraceable: the model runs neither on fake tensors nor on copies of its own with two rows,
            or its call runs no hooks.
        ValueError: the arguments contain no tensor.
    """
    require_runnable(model)
    own_call = _own_calls.class_with_own_call(model) is not None
    inputs = list(named_inputs(model, args, kwargs))
    tried: list[Traces] = []
    for lead in leading_names(inputs):
        try:
            given = model, args, kwargs, neutral, mask, lead
            tried.append(_watched(functools.partial(_trace, *given)))
        except NotTraceable:
            if not tried:
                raise
        if own_call and not tried[-1].first.called:
            raise Hookless(_own_calls.fault(model))
        if tried[-1].follows and tried[-1].second is not None:
            return tried[-1]
    return next((traces for traces in tried if traces.follows), tried[0])


@in_own_context
def trace_graphs(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], neutral: Neutral, lead: str
) -> Traces:
    """Record a forward pass of a batch of graphs, once, on copies, because its size has a meaning.

    Args:
        model: the model. It runs on stand-ins and does not change.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        neutral: the mode that neutralises random operators.
        lead: name of the input that holds the graph of each node.

    Raises:
        NotTraceable: the model does not run on copies.
    """
    with staged_with(model, args, kwargs) as (stage, args, kwargs):
        numbers = leading(list(named_inputs(stage.model, args, kwargs)), lead)
        given = stage, args, kwargs, lead, neutral, None
        return _Recording(*given, first=graphs_in(numbers)).traces_of_graphs()


def _watched(record_with: Callable[[FakeTensorWatch], Traces]) -> Traces:
    """Return the recordings after checking that the dry runs left no fake tensor behind."""
    watch = FakeTensorWatch()
    try:
        traces = record_with(watch)
    except NotTraceable:
        watch.require_nothing_left()
        raise
    watch.require_nothing_left()
    return traces


@in_own_context
def _trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    neutral: Neutral,
    mask: str | None,
    lead: str,
    watch: FakeTensorWatch,
) -> Traces:
    """Run `trace`, given that the batch is dimension 0 of the input ``lead``."""
    with staged_with(model, args, kwargs) as (stage, args, kwargs):
        watch.caches = stage.snapshot.caches()
        given = stage, args, kwargs, lead, neutral, mask
        # If the model's code fails on fake tensors, for whatever reason, try copies: they work or
        # give a proper error.
        with suppress(Exception), without_collections():
            return _Recording.on_fake_tensors(*given, watch=watch).traces()
        with _must_run():
            return _Recording(*given, first=2).traces()


@contextmanager
def _must_run() -> Iterator[None]:
    try:
        yield
    except NotTraceable:
        raise
    except Exception as error:
        reason = f"its forward pass does not run ({type(error).__name__}: {error})"
        raise NotTraceable(reason) from error


@dataclass
class _Recording:
    """The staged model, and the batch to record it with."""

    stage: Stage
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    lead: str
    neutral: Neutral
    mask: str | None
    first: int
    fake_mode: Any = None

    @classmethod
    def on_fake_tensors(
        cls,
        stage: Stage,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        lead: str,
        neutral: Neutral,
        mask: str | None,
        watch: FakeTensorWatch,
    ) -> "_Recording":
        from manifold_mixup._dry_run.quick_fakes import QuickFakes  # only a dry run needs it

        mode = watch.over(QuickFakes(allow_non_fake_inputs=True))
        # In train mode, BatchNorm refuses a single value per channel.
        rows = len(leading(list(named_inputs(stage.model, args, kwargs)), lead))
        return cls(stage, args, kwargs, lead, neutral, mask, max(rows, 2), mode)

    def _stand_in(self, tensor: Tensor) -> Tensor:
        if self.fake_mode is None:
            return _stand_ins.copied(tensor)
        return _stand_ins.fake(tensor, self.fake_mode)

    def traces(self) -> Traces:
        """Record both passes."""
        self.stage.replace_tensors(self._stand_in)
        return self._described(*self._both())

    def traces_of_graphs(self) -> Traces:
        """Record one pass of the batch as it is."""
        self.stage.replace_tensors(self._stand_in)
        with _must_run():
            first = self._record(self.first, frozenset())
        return replace(self._described(first, None), graphs=True)

    def _described(self, first: Trace, second: Trace | None) -> Traces:
        layers = tuple(named_layers(self.stage.model))
        if layers and not first.runs:
            raise NotTraceable("its forward pass runs none of its modules")
        parts = self.stage.model.modules()
        scripted = any(isinstance(part, torch.jit.ScriptModule) for part in parts)
        return Traces(first, second, layers, self.fake_mode is not None, self.lead, scripted)

    def _both(self) -> tuple[Trace, Trace | None]:
        inputs = list(named_inputs(self.stage.model, self.args, self.kwargs))
        lead = leading(inputs, self.lead)
        error = None  # of the likeliest inputs, as the others may only not fit each other
        for batched in batched_names(inputs, lead):
            try:
                first = self._record(self.first, batched)
                return first, self._record_again(first, 2 * self.first, batched)
            except Exception as failed:
                error = error or failed
        try:
            return self._record(len(lead), frozenset()), None
        except Exception as failed:
            raise error or failed from None
        finally:
            del error  # it holds this frame and so the whole recording

    def _record_again(self, first: Trace, batch: int, batched: frozenset[str]) -> Trace:
        """Record a second pass: its shapes, or all of it if it does not do what the first did."""
        follower = Follower(first, batch, self.fake_mode)
        try:
            trace = self._run(follower, batch, batched)
            follower.require_same()
        except Exception:
            if not follower.diverged:
                raise
            return self._record(batch, batched)
        return trace

    def _record(self, batch: int, batched: frozenset[str]) -> Trace:
        return self._run(Recorder(batch, self.fake_mode, self.mask), batch, batched)

    def _run(self, recorder: Recorder, batch: int, batched: frozenset[str]) -> Trace:
        def resize(name: str, tensor: Tensor) -> Tensor:
            rows = batch if name in batched else len(tensor) if tensor.ndim else None
            return self._like(name, tensor, rows)

        self.stage.reset()
        model, isolated = self.stage.model, self.stage.isolated()
        with self.fake_mode or nullcontext():
            args, kwargs = map_inputs(resize, model, self.args, self.kwargs)
        # Fake operators write nowhere, so tensors without a stand-in need no isolation.
        mode = self.fake_mode or isolated
        try:
            constants = self.stage.stand_ins.values()
            with own_conversions():
                return record(recorder, model, args, kwargs, mode, self.neutral, constants)
        finally:
            isolated.require()

    def _like(self, name: str, tensor: Tensor, rows: int | None) -> Tensor:
        """Return a tensor like this one with another number of rows; None for a scalar."""
        if self.fake_mode is not None:
            shape = () if rows is None else (rows, *tensor.shape[1:])
            new = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
        elif rows is None:
            new = tensor.detach().clone()
        else:
            new = tensor.detach()[torch.arange(rows, device=tensor.device) % max(len(tensor), 1)]
            # The model's code may drop a mask without padding, and read that of a later batch.
            if name == self.mask:
                new = shortened(new, name)
            elif is_full(new, name):
                new = with_short_examples(new, name)
        return new.requires_grad_(tensor.requires_grad)
