"""What type checkers see of the public names: mypy reads it, with the library; nothing runs it."""

from typing import assert_type

from torch import Tensor, nn

import manifold_mixup
from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan, find_layers, mix, sample_plan


def the_names_have_types(model: nn.Module, x: Tensor) -> None:
    plan = sample_plan(4, layers=["fc"], alpha=1.0)
    assert_type(plan, MixPlan)
    assert_type(mix(x, plan), Tensor)
    assert_type(MixedTarget(x, plan).accuracy(x), Tensor)
    assert_type(find_layers(model, x).default, tuple[str, ...])
    assert_type(ManifoldMixup(model, ["fc"]).plan, MixPlan | None)


def a_misspelt_name_is_an_error() -> None:
    """The names come from a ``__getattr__``, but any other name is an error."""
    manifold_mixup.mixx  # type: ignore[attr-defined]  # noqa: B018 - mypy wants the error
