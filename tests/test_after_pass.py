"""Outputs whose examples are reordered before the criterion."""

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
    "an order undone elsewhere": lambda o: o + torch.ones(4, 4, requires_grad=True)[ORDER].sum(0),
    "the same order": lambda o: o.index_select(0, torch.arange(4)),
}


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


MOVED = {
    "transposed": lambda o: o.transpose(0, 1),
    "for PyTorch's loss": lambda o: o.transpose(0, 1).transpose(1, 2),
    "permuted": lambda o: o.permute(1, 2, 0),
    "of probabilities": lambda o: o.double().softmax(2).movedim(0, 1),
}
IN_PLACE = {
    "the batch stays": lambda o: o.transpose(1, 2),
    "there and back": lambda o: o.transpose(0, 1).permute(1, 0, 2),
}
SQUARE = torch.arange(16).reshape(4, 4) % 3


@pytest.fixture
def sequences():
    """As many examples as steps, with scores of classes for each."""
    with ManifoldMixup(nn.Linear(5, 3), ["input"], seed=0) as mixup:
        yield mixup._attachment.model(torch.randn(4, 4, 5)), mixup


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), lambda o, y: o.sum()], ids=["1", "2"])
@pytest.mark.parametrize("change", MOVED.values(), ids=MOVED.keys())
def test_a_batch_that_moved_is_refused_if_the_target_does_not_tell(sequences, change, criterion):
    output, mixup = sequences
    with pytest.raises(
        ValueError, match=r"the batch is its dimension [12], and the target of shape"
    ):
        mixup.wrap(criterion)(change(output), SQUARE.T if change(output).ndim else SQUARE)


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE.keys())
def test_a_batch_that_did_not_move(sequences, change):
    output, mixup = sequences
    loss = mixup.wrap(lambda o, y: (o.sum(2) * y).mean() if o.ndim == 3 else 0)
    loss(change(output), SQUARE[:, : change(output).shape[1]])


def test_a_batch_that_moved_beside_a_target_that_tells():
    with ManifoldMixup(nn.Linear(5, 3), ["input"], seed=0) as mixup:
        output = mixup._attachment.model(torch.randn(4, 4, 5)).log_softmax(2)
        steps, lengths = output.transpose(0, 1), torch.full((4,), 4)
        y = torch.tensor([[1, 2, 1, 2]]).expand(4, 4)  # of CTC, the examples come first
        loss = mixup.wrap(nn.CTCLoss())(steps, y[:, :2], lengths, lengths // 2)
        torch.testing.assert_close(loss, mixup.wrap(nn.CTCLoss())(steps, y, lengths, lengths // 2))


def test_without_mixing_any_order_is_right(model, mixup):
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    with mixup.paused():
        given = model(torch.randn(4, 5))
    y = torch.arange(4)
    torch.testing.assert_close(criterion(given[ORDER], y[ORDER]), cross_entropy(given, y))


def test_further_on_an_order_may_be_restored_or_rows_may_be_something_else(mixup, given):
    """Nothing is refused that is right, such as a reordering that is undone."""
    y, head = torch.tensor([3, 1, 0, 2]), nn.Linear(4, 4)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    ends = [cross_entropy(head(given), target) for target in (y, y[PERM])]
    expected = LAM * ends[0] + (1 - LAM) * ends[1]
    undone = head(given[ORDER])[ORDER.argsort()]
    torch.testing.assert_close(criterion(undone, y), expected)
    flat = torch.stack([given, 0 * given], 1).flatten(0, 1)[torch.arange(4) * 2]
    torch.testing.assert_close(criterion(head(flat), y), expected)
    criterion(head(given - given.sort(0).values[1]), y)  # a statistic
    criterion(given.T[ORDER].T, y)  # classes


def test_without_a_target_any_order_is_right(mixup, given):
    mixup.target(None, (given - given.roll(1, 0)).square().mean())
    mixup.target(None, given.roll(1, 0))


def test_after_backward_what_an_operator_kept_is_gone(mixup, given):
    output = given[:, None][torch.arange(4), torch.zeros(4, dtype=torch.long)]
    y = torch.arange(4)
    mixup.wrap(nn.CrossEntropyLoss())(output, y).backward()
    assert 0 <= float(mixup.target(y, output).accuracy(output)) <= 1
