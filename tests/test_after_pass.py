"""Outputs that are reordered before the criterion, or joined by data the model was not given."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup, MixPlan

ORDER = torch.tensor([2, 0, 3, 1])
LAM, PERM = 0.25, torch.tensor([1, 2, 3, 0])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))


@pytest.fixture
def mixup(model):
    with ManifoldMixup(model, ["1"], seed=0) as mixup:
        yield mixup


@pytest.fixture
def given(model, mixup):
    """What the model returns for a mixed batch."""
    with mixup.using(MixPlan("1", LAM, PERM)):
        return model(torch.randn(4, 5, generator=torch.Generator().manual_seed(1)))


REORDERED = {
    "index": lambda o: o[ORDER],
    "the index of each class": lambda o: o[ORDER[:, None], torch.arange(4)],
    "index_select": lambda o: o.index_select(0, ORDER),
    "a negative dimension": lambda o: o.index_select(-2, ORDER),
    "flip": lambda o: o.flip(0),
    "flip, negative": lambda o: o.flip(-2),
    "roll": lambda o: o.roll(1, 0),
    "sort": lambda o: o.sort(0).values,
    "topk": lambda o: o.topk(4, 0).values,
    "before something else": lambda o: 2 * o[ORDER].tanh(),
    "after something else": lambda o: (o + 1)[ORDER],
    "repeated": lambda o: o[torch.tensor([0, 0, 1, 1])],
}


@pytest.mark.parametrize("change", REORDERED.values(), ids=REORDERED.keys())
def test_another_order_of_the_examples_is_refused(mixup, given, change):
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="reordered or repeated after the forward pass, by"):
        criterion(change(given), torch.arange(4))


IN_ORDER = {
    "the last of each": lambda o: o[:, None][torch.arange(4), torch.tensor([0, 0, 0, 0])],
    "all that are valid": lambda o: o[torch.ones(4, dtype=torch.bool)],
    "other classes": lambda o: o[:, ORDER],
    "flipped classes": lambda o: o.flip(1),
    "sorted classes": lambda o: o.sort(1).values,
    "rolled by all": lambda o: o.roll(4, 0),
    "an order undone elsewhere": lambda o: o + torch.ones(4, 4, requires_grad=True)[ORDER],
    "the same order": lambda o: o.index_select(0, torch.arange(4)),
}


@pytest.mark.filterwarnings("ignore:the output was also computed from data of the batch")
@pytest.mark.parametrize("change", IN_ORDER.values(), ids=IN_ORDER.keys())
def test_the_order_of_the_batch_is_as_before(mixup, given, change):
    y = torch.tensor([3, 1, 0, 2])
    loss = mixup.wrap(nn.CrossEntropyLoss())(change(given), y)
    ends = [cross_entropy(change(given), target) for target in (y, y[PERM])]
    torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])


def test_the_way_out(mixup, given):
    y = torch.tensor([3, 1, 0, 2])

    def criterion(output, target):
        return cross_entropy(output[ORDER], target[ORDER], weight=torch.tensor([1.0, 2, 3, 4]))

    loss = mixup.wrap(criterion)(given, y)
    weight = torch.tensor([1.0, 2, 3, 4])
    ends = [cross_entropy(given, target, weight=weight) for target in (y, y[PERM])]
    torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])


def test_the_batch_at_another_dimension():
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    with ManifoldMixup(model, ["input"], batch_dim=1, seed=0) as mixup:
        criterion = mixup.wrap(nn.MSELoss())
        y = torch.randn(7, 4, 3)
        criterion(model(torch.randn(7, 4, 5)).flip(0), y).backward()  # time
        with pytest.raises(ValueError, match="by FlipBackward0"):
            criterion(model(torch.randn(7, 4, 5)).flip(1), y)


def test_without_mixing_any_order_is_right(model, mixup):
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    with mixup.paused():
        given = model(torch.randn(4, 5))
    y = torch.arange(4)
    torch.testing.assert_close(criterion(given[ORDER], y[ORDER]), cross_entropy(given, y))


class Fuse(nn.Module):
    """A network for images, one for tables, and a head for both."""

    def __init__(self, join):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.table = nn.Linear(5, 4), nn.Linear(3, 4)
        self.head, self.join = nn.Linear(4, 3), join

    def forward(self, image, table):
        return self.head(self.join(self.image(image), self.table, table))


def fused_loss(join, times=1):
    """Attach to the network for images alone."""
    model, y = Fuse(join), torch.tensor([2, 1, 0, 2])
    mixup = ManifoldMixup(model.image, ["input"], seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for _ in range(times):
        criterion(model(torch.randn(4, 5), torch.randn(4, 3)), y).backward()


def test_a_branch_beside_the_attached_part_is_warned_of_once():
    with pytest.warns(UserWarning, match="was also computed from data of the batch") as told:
        fused_loss(lambda h, net, table: h + net(table), times=3)
    assert len(told) == 1


BESIDE = {
    "nothing": lambda h, net, table: h.tanh(),
    "another layer": lambda h, net, table: net(h[:, :3]),
    "weights that are normalised": lambda h, net, table: (
        h[:, :3] @ (net.weight / net.weight.norm()).T
    ),
    "a factor for all": lambda h, net, table: h * net.bias.exp(),
    "noise": lambda h, net, table: h + h.exp() * torch.randn(4, 4),
    "what has no gradient": lambda h, net, table: h + net(table).detach(),
}


@pytest.mark.parametrize("join", BESIDE.values(), ids=BESIDE.keys())
def test_other_operators_are_not(join):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused_loss(join)
