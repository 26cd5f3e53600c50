"""Set a model up for the proof, in the first way in which it runs."""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._dry_run.stage import Stage
from manifold_mixup._dry_run.stand_ins import copied, level
from manifold_mixup._graphs import graphs_in
from manifold_mixup._inputs import batched_names, leading, named_inputs
from manifold_mixup._proof.bench import Bench, RunModel
from manifold_mixup._proof.errors import Inconclusive, NotFinite
from manifold_mixup._proof.graphs import draw_graphs
from manifold_mixup._proof.kept import first_examples, kept_states
from manifold_mixup._proof.redraw import Examples, draw_examples, redraw_parameters
from manifold_mixup._proof.thin import drop_gradients, thin
from manifold_mixup._proof.unmixed import Unmixed

# A dtype, and a function that draws examples of it.
Setup = tuple[torch.dtype, Callable[..., Examples]]

# Few enough to be fast, and a cyclic shift of four rows is not its own inverse.
_ROWS = 4
# A cyclic shift of two graphs is its own inverse.
_GRAPHS = 3


@dataclass(frozen=True)
class Task:
    """How to run a model, and what of its batch and its outputs matters.

    Attributes:
        run: see `manifold_mixup._proof.prove.prove`, like the rest.
        mask: name of the padding mask.
        outputs: paths of the outputs that the loss reads; None means all outputs.
        lead: name of the input whose dimension 0 is the batch.
        graphs: whether the examples are graphs.
        last_token: whether token ids choose positions of the output.
        gain: by what the redrawn weights are multiplied.
    """

    run: RunModel
    mask: str | None
    outputs: Sequence[str] | None
    lead: str | None
    graphs: bool = False
    last_token: bool = False
    gain: float = 1.0


def prepare(
    stage: Stage,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    task: Task,
    *,
    kept: tuple[int, Collection[int]] = (0, ()),
    large: Collection[int] = (),
    layer: str | None = None,
) -> Unmixed:
    """Set the model up and run it unmixed, in float64 or, failing that, in float32.

    Args:
        stage: the model.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        task: how to run it.
        kept: the number of examples in that batch, and the tensors that the model keeps for as
            many, by id. Of these, those of the examples of the proof are taken, if it runs so.
        large: parameters, by id, that are drawn thin if the model runs with such ones.
        layer: a layer that may then be tested at the same time.
    """
    _refuse_lazy(stage)
    rows, states = kept
    setups = _setups(stage.model, args, kwargs, task)
    overflows = False  # in float64, as masks of which the lowest number is added twice do
    for setup, shortened in product(setups, (states, ()) if states else ((),)):
        if overflows and setup[0] == torch.float64:
            continue
        attempt = Attempt(stage, task, *setup, rows, shortened)
        try:
            return (large and attempt.with_thin(large, layer)) or attempt.with_copies()
        except NotFinite:
            if setup[0] != torch.float64:
                raise
            overflows = True
        except (Inconclusive, NotTraceable):
            raise
        except Exception as failed:  # the model's code may not support this dtype
            error = failed
    reason = f"its forward pass does not run ({type(error).__name__}: {error})"
    raise NotTraceable(reason) from error


def _setups(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], task: Task
) -> Iterator[Setup]:
    """Yield dtypes, each with a function that draws examples of it, the best way first."""
    inputs = list(named_inputs(model, args, kwargs))
    rows = leading(inputs, task.lead)
    if task.graphs and task.lead is not None:
        if graphs_in(rows) < _GRAPHS:
            raise Inconclusive(f"pass a batch of {_GRAPHS} graphs or more")
        for dtype, noise in product((torch.float64, torch.float32), (True, False)):
            yield dtype, functools.partial(draw_graphs, model, args, kwargs, task.lead, noise=noise)
        return
    # Some models run with one batch size only: they keep states, or were exported.
    counts = dict.fromkeys((_ROWS, max(len(rows), 2)))
    given: Any = {"mask": task.mask, "last_token": task.last_token, "batch": len(rows)}
    draw = functools.partial(draw_examples, model, args, kwargs, **given)
    setups = product(counts, (torch.float64, torch.float32), batched_names(inputs, rows))
    for count, dtype, batched in setups:
        yield dtype, functools.partial(draw, batched=batched, count=count)


@dataclass(frozen=True)
class Attempt:
    """One way to set a model up.

    Attributes:
        stage: the model.
        task: how to run it.
        dtype: of its parameters and examples.
        draw: draws the examples.
        rows: the number of examples that the model keeps states for.
        shortened: these states, by id, if those of the examples of the proof are taken.
    """

    stage: Stage
    task: Task
    dtype: torch.dtype
    draw: Callable[..., Examples]
    rows: int
    shortened: Collection[int]

    def with_thin(self, large: Collection[int], layer: str | None) -> Unmixed | None:
        """Take thin parameters in place of large ones; None if the model does not run with them."""
        with suppress(Exception):  # code that writes into parameters, for example, refuses them
            tensors = [tensor for tensor in self.stage.tensors if id(tensor) in large]
            slim = thin(tensors, self.dtype)
            bench = self._bench(lambda tensor: slim.get(id(tensor)), thin=True)
            drop_gradients(self.stage.model)
            unmixed = Unmixed(bench)
            unmixed.calibrate(layer)
            return unmixed
        return None

    def with_copies(self) -> Unmixed:
        """Copy all parameters; if needed, make kept states equal for all examples first."""
        unmixed = Unmixed(self._bench())
        try:
            unmixed.calibrate()
        except Inconclusive as error:
            count = unmixed.bench.examples.count
            if not (kept := kept_states(self.stage, count)):
                raise

            def levelled(tensor: Tensor) -> Tensor | None:
                return level(self._copied(tensor), count) if id(tensor) in kept else None

            # A state belongs to its example. If all have the same, their order does not matter.
            alike = Unmixed(self._bench(levelled))
            try:
                alike.calibrate()
            except Inconclusive:
                raise error from None
            unmixed = Unmixed(self._bench())
            unmixed.calibrate_from(alike, kept.values())
        return unmixed

    def _bench(
        self, instead: Callable[[Tensor], Tensor | None] = lambda _: None, *, thin: bool = False
    ) -> Bench:
        """Set the model up with what stands ``instead`` of a parameter or buffer, or a copy."""

        def made(tensor: Tensor) -> Tensor:
            other = instead(tensor)
            return self._copied(tensor) if other is None else other

        self.stage.replace_tensors(made)
        redraw_parameters(self.stage.model, self.task.gain)
        examples, task = self.draw(dtype=self.dtype), self.task
        return Bench(self.stage, examples, task.run, task.outputs, task.mask, thin=thin)

    def _copied(self, tensor: Tensor) -> Tensor:
        made = copied(tensor, self.dtype)
        return first_examples(made, self.rows, _ROWS) if id(tensor) in self.shortened else made


def _refuse_lazy(stage: Stage) -> None:
    for name, parameter in stage.model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise NotTraceable(
                f"the parameter {name!r} of a lazy module has no shape yet. Run the model on one "
                f"batch first, model(x)"
            )
