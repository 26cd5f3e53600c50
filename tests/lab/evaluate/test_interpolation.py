"""Interpolation curves, compared with a model split by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup
from manifold_mixup.lab.evaluate import logits, nll
from manifold_mixup.lab.evaluate.interpolation import LAMS, interpolated_nll


@pytest.fixture
def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.5))
        return nn.Sequential(first, nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 5, generator=generator), torch.arange(60) % 3


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def by_hand(model: nn.Sequential, cut: int, x, y, lam: float) -> float:
    """Run prefix, mix and suffix with the pairs that the generator draws."""
    generator = seeded()
    rows = torch.randperm(60, generator=generator)
    perm = torch.randperm(60, generator=generator)
    model.eval()
    with torch.no_grad():
        state = model[:cut](x[rows])
        output = model[cut:](lam * state + (1 - lam) * state[perm])
        log_p = output.double().log_softmax(1)
    own, partner = F.one_hot(y[rows], 3).double(), F.one_hot(y[rows][perm], 3).double()
    return -((lam * own + (1 - lam) * partner) * log_p).sum(1).mean().item()


def test_a_curve_equals_the_model_split_by_hand(model, batch):
    lams = (0.0, 0.3, 0.5, 1.0)
    curves = interpolated_nll(
        model, *batch, layers=["input", "0", "2"], lams=lams, generator=seeded()
    )
    assert list(curves) == ["input", "0", "2"]
    for layer, cut in (("input", 0), ("0", 1), ("2", 3)):
        expected = [by_hand(model, cut, *batch, lam) for lam in lams]
        assert list(curves[layer]) == pytest.approx(expected, rel=1e-5)
    assert curves["input"][1] != pytest.approx(curves["0"][1], rel=1e-4)


def test_both_ends_are_the_plain_nll(model, batch):
    curves = interpolated_nll(model, *batch, layers=["0"], generator=seeded())
    plain = nll(logits(model.eval(), batch[0]), batch[1])
    assert len(curves["0"]) == len(LAMS) == 51
    assert LAMS[1] == 0.02
    assert curves["0"][-1] == pytest.approx(plain)
    assert curves["0"][0] == pytest.approx(plain)


def test_a_test_set_sorted_by_class_is_paired_across_classes():
    # Without shuffling, a batch of 1,000 would have a single class, and the NLL would be near 0.
    y = torch.arange(2000) // 1000
    model = nn.Linear(1, 2)
    model.weight.data, model.bias.data = torch.tensor([[0.0], [80.0]]), torch.tensor([0.0, -40.0])
    x = y[:, None].float()
    curves = interpolated_nll(model, x, y, layers=["input"], lams=(0.5,), generator=seeded())
    assert curves["input"][0] == pytest.approx(0.5 * math.log(2), rel=0.1)


def test_the_model_and_what_is_attached_to_it_stay(model, batch):
    mixup = ManifoldMixup(model.train(), ["0"], seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    interpolated_nll(model, *batch, layers=["2"], lams=(0.5,), generator=seeded())
    assert model.training
    assert mixup.plan is None
    assert mixup.state_dict()["step"] == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model(batch[0])
    assert mixup.plan.layer == "0"


def test_a_bypassed_layer_is_refused(batch):
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(x + self.inner(x))

    with pytest.raises(ValueError, match="'inner' is bypassed"):
        interpolated_nll(Residual(), *batch, layers=["inner"], generator=seeded())
