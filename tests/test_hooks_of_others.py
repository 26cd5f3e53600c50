"""Hooks of others on a mixed layer, before ours or behind it: they run where they stand."""

import pytest
import torch
from torch import Tensor, nn

from looks import BATCH, FLOATS
from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from states import normal


class Collecting(nn.Module):
    """Classifies by states that a hook collected, like the backbones of Transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.kept: list[Tensor] = []

    def watch(self) -> "Collecting":
        self.b.register_forward_hook(lambda module, args, output: self.kept.append(output))
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        self.b(self.a(x).tanh())
        return self.head(self.kept[-1].tanh())


class Plain(Collecting):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).tanh()).tanh())


PLAN = MixPlan("b", lam=torch.tensor(0.0), perm=torch.tensor([1, 2, 3, 4, 0, 5]))


@pytest.mark.parametrize("known", [True, False])
def test_a_state_that_a_hook_collects_is_mixed(known):
    model, x = Collecting().watch(), normal(6, 4)
    assert {row.name for row in find_layers(model, x).cuts} == {"a", "b", "head"}
    mixup = ManifoldMixup(model, ["b"], seed=0, example=x if known else None)
    loss = mixup.wrap(nn.CrossEntropyLoss())(model(x), torch.randint(3, (6,)))
    loss.backward()
    plain = model.eval()(x)
    with mixup.using(PLAN):
        torch.testing.assert_close(model(x), plain[PLAN.perm])
    mixup.assert_verified(x)
    mixup.remove()
    assert len(model.b._forward_hooks) == 1


def test_a_hook_that_comes_later_sees_the_mixed_state_as_well():
    model, x = Collecting(), normal(6, 4)
    mixup = ManifoldMixup(model, ["b"], seed=0)
    model.watch()
    mixup.wrap(nn.CrossEntropyLoss())(model(x), torch.randint(3, (6,))).backward()
    mixup.assert_verified(x)


def test_a_hook_that_changes_the_output_comes_before_the_mix():
    model, x = Plain(), normal(6, 4)
    model.b.register_forward_hook(lambda module, args, output: output + args[0])
    assert {row.name for row in find_layers(model, x).cuts} == {"a", "b", "head"}
    mixup = ManifoldMixup(model, ["b"], seed=0, example=x)
    mixup.assert_verified(x)
    plain = model.eval()(x)
    with mixup.using(PLAN):
        torch.testing.assert_close(model(x), plain[PLAN.perm])


def test_a_hook_that_adds_the_input_after_the_mix_is_a_bypass():
    model, x = Plain(), normal(6, 4)
    mixup = ManifoldMixup(model, ["b"], seed=0)
    model.b.register_forward_hook(lambda module, args, output: output + args[0])
    with pytest.raises(ValueError, match="'b' is bypassed"):
        mixup._attachment.model(x)


# Hooks of other code keep their positions


class Captured(nn.Module):
    """Its head reads what a hook on ``b`` stored, like backbones of Transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.b(self.a(x))
        return self.head(self.kept.pop("b"))

    def capture(self) -> None:
        kept = self.kept
        self.b.register_forward_hook(lambda module, args, output: kept.update(b=output))


def permutes(model: nn.Module, mixup: ManifoldMixup, layer: str) -> bool:
    plan = MixPlan(layer, lam=torch.tensor(0.0), perm=torch.arange(BATCH).roll(-1))
    with mixup.paused():
        plain = model(FLOATS)
    with mixup.using(plan):
        return torch.allclose(model(FLOATS), plain[plan.perm], atol=1e-6)


@pytest.mark.parametrize("check", [True, False])
def test_a_mix_is_put_before_a_hook_that_reads_the_state(check):
    model = Captured()
    model.capture()
    rows = {row.name: row.cut for row in find_layers(model, FLOATS)}
    assert rows == {"a": True, "b": True, "head": True}
    mixup = ManifoldMixup(model, ["b"], seed=0, check=check)
    mixup.assert_verified(FLOATS)
    mixup.wrap(nn.CrossEntropyLoss())(model(FLOATS), torch.arange(BATCH) % 3).backward()
    assert permutes(model, mixup, "b")
    mixup = ManifoldMixup(model, ["a"], seed=0, example=FLOATS, replace=True)
    mixup.assert_verified(FLOATS)
    assert permutes(model, mixup, "a")


def test_a_hook_that_reads_the_state_behind_the_mix_is_no_obstacle():
    model = Captured()
    mixup = ManifoldMixup(model, ["b"], seed=0)
    model.capture()  # only in the first forward pass
    hooks = list(model.b._forward_hooks.values())
    mixup.assert_verified(FLOATS)
    mixup.wrap(nn.CrossEntropyLoss())(model(FLOATS), torch.arange(BATCH) % 3).backward()
    assert list(model.b._forward_hooks.values()) == hooks
    assert permutes(model, mixup, "b")
    # A hook registered now would be last if it were not moved to the front.
    mixup = ManifoldMixup(model, ["b"], example=FLOATS, replace=True)
    assert permutes(model, mixup, "b")
