"""A second recording of the same operators has the shapes of a full one; others are noticed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import carrying
import padded
import zoo
from manifold_mixup import find_layers
from manifold_mixup._dry_run.left_behind import FakeTensorWatch
from manifold_mixup._dry_run.neutral import Neutral
from manifold_mixup._dry_run.stage import staged_with
from manifold_mixup._inputs import batched_names, leading, leading_names, named_inputs
from manifold_mixup._structure.follow import Follower
from manifold_mixup._structure.recorded import Trace
from manifold_mixup._structure.trace import _Recording

Case = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def case(name: str) -> Case:
    """Return a model and its arguments."""
    if name in zoo.ZOO:
        model = zoo.build(name)
        return model, (zoo.example(model),), {}
    if name in carrying.MODELS:
        model = carrying.build(name)
        example = model.example()
        return (model, (), example) if isinstance(example, dict) else (model, example, {})
    model, batch = padded.own(name)
    return model, (), batch


@contextmanager
def recording(model: nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[Any, int, Any]]:
    """Yield what records a model, the number of rows, and the names of the batched inputs."""
    with staged_with(model, args, kwargs) as (stage, args, kwargs):
        inputs = list(named_inputs(stage.model, args, kwargs))
        lead = next(iter(leading_names(inputs)))
        given = stage, args, kwargs, lead, Neutral(), None
        found = _Recording.on_fake_tensors(*given, watch=FakeTensorWatch())
        found.stage.replace_tensors(found._stand_in)
        yield found, found.first, next(iter(batched_names(inputs, leading(inputs, lead))))


def shapes(trace: Trace) -> Any:
    """Return what a recording with another batch size is for."""
    leaf = lambda leaf: (leaf.path, leaf.shape, leaf.floating, leaf.boolean)  # noqa: E731
    calls = [
        (
            call.layer,
            call.steps,
            call.enclosing_calls,
            *(list(map(leaf, leaves)) for leaves in groups),
        )
        for call in trace.calls
        for groups in [(call.given, call.masks, call.returned)]
    ]
    runs = [(run.layer, run.number, list(map(leaf, run.leaves))) for run in trace.runs]
    interactions = [replace(interaction, node=-1) for interaction in trace.interactions]
    ends = list(map(leaf, trace.inputs)), list(map(leaf, trace.outputs))
    return trace.batch, trace.steps, calls, runs, interactions, ends


@pytest.mark.parametrize("name", [*zoo.ZOO, *carrying.MODELS, *padded.FORMS])
def test_a_followed_pass_has_the_shapes_of_a_recorded_one(name: str) -> None:
    """Modules, masks, shapes and operators that combine rows are the same."""
    with recording(*case(name)) as (both, rows, batched):
        first = both._record(rows, batched)
        follower = Follower(first, 2 * rows, both.fake_mode)
        followed = both._run(follower, 2 * rows, batched)
        follower.require_same()
        assert shapes(followed) == shapes(both._record(2 * rows, batched))


class Differs(nn.Module):
    """Does something else for a large batch, perhaps in a block that catches every error."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.stem, self.more, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        if len(x) > 4 and self.way == "operator":
            h = h * 2
        elif len(x) > 4 and self.way == "layer":
            h = self.more(h)
        elif len(x) > 4 and self.way == "caught":
            with suppress(Exception):
                h = torch.tanh(h)
        elif len(x) <= 4 and self.way == "less":
            h = torch.tanh(h)
        return h if self.way == "less" else self.head(h)


@pytest.mark.parametrize("way", ["operator", "layer", "caught", "less"])
def test_a_pass_that_does_something_else_is_recorded(way: str) -> None:
    """An operator or a layer more or less is noticed, even if the model catches the error."""
    with recording(Differs(way), (torch.ones(3, 4),), {}) as (both, rows, batched):
        first = both._record(rows, batched)
        second = both._record_again(first, 2 * rows, batched)
        assert second.nodes  # all was recorded
        assert shapes(second) == shapes(both._record(2 * rows, batched))
        same = both._record_again(first, rows, batched)
        assert not same.nodes


def test_rows_that_are_looped_over_are_no_place_to_mix_by_structure_alone() -> None:
    """A pass with more rows runs more operators, and the table says what a full one said."""

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.head(torch.stack([row * 2 for row in h]))

    assert [row.cut for row in find_layers(Loop(), torch.randn(3, 4))] == [True, True]
