"""Hooks of others that stand on a mixed layer before ours."""

import pytest
import torch
from torch import Tensor, nn

from manifold_mixup import ManifoldMixup, MixPlan, find_layers


def batch(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Collecting(nn.Module):
    """Classifies by states that a hook collected, as the backbones of Transformers do."""

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
    model, x = Collecting().watch(), batch(6, 4)
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
    model, x = Collecting(), batch(6, 4)
    mixup = ManifoldMixup(model, ["b"], seed=0)
    model.watch()
    mixup.wrap(nn.CrossEntropyLoss())(model(x), torch.randint(3, (6,))).backward()
    mixup.assert_verified(x)


def test_a_hook_that_changes_the_output_comes_before_the_mix():
    model, x = Plain(), batch(6, 4)
    model.b.register_forward_hook(lambda module, args, output: output + args[0])
    assert {row.name for row in find_layers(model, x).cuts} == {"a", "b", "head"}
    mixup = ManifoldMixup(model, ["b"], seed=0, example=x)
    mixup.assert_verified(x)
    plain = model.eval()(x)
    with mixup.using(PLAN):
        torch.testing.assert_close(model(x), plain[PLAN.perm])


def test_a_hook_that_adds_the_input_after_the_mix_is_a_bypass():
    model, x = Plain(), batch(6, 4)
    mixup = ManifoldMixup(model, ["b"], seed=0)
    model.b.register_forward_hook(lambda module, args, output: output + args[0])
    with pytest.raises(ValueError, match="'b' is bypassed"):
        mixup._attachment.model(x)
