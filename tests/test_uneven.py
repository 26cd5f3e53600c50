"""Losses of the examples that are weighted differently after a wrapped criterion are warned of."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manifold_mixup import ManifoldMixup
from states import normal

ROWS = 16
X, Y, WEIGHT = normal(ROWS, 4), torch.arange(ROWS) % 3, normal(ROWS).exp()
KNOWN, LABELS = WEIGHT > 1, (normal(ROWS, 3) > 0).float()


def own(output, y):
    return F.cross_entropy(output, y, reduction="none")


CRITERIA = {"PyTorch's": nn.CrossEntropyLoss(reduction="none"), "of one's own": own}


def train(reduce, criterion, y=Y, *, steps=1, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    with ManifoldMixup(model, ["1"], seed=0, **options) as mixup:
        wrapped = mixup.wrap(criterion)
        for _ in range(steps):
            reduce(wrapped(model(X), y)).backward()


UNEVEN = {
    "weights": lambda losses: (losses * WEIGHT).mean(),
    "weights of their classes": lambda losses: (losses * torch.tensor([1.0, 2, 3])[Y]).mean(),
    "a product with weights": lambda losses: losses @ WEIGHT,
    "a mask": lambda losses: (losses * KNOWN).sum() / KNOWN.sum(),
    "some of them": lambda losses: losses[KNOWN].mean(),
    "two parts of a batch": lambda losses: losses[:9].mean() + losses[9:].mean() / 10,
}


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())
@pytest.mark.parametrize("reduce", UNEVEN.values(), ids=UNEVEN.keys())
def test_weights_of_the_examples_are_warned_of_once(reduce, criterion):
    with pytest.warns(UserWarning, match=r"weighted differently.*with_target='weight'") as warned:
        train(reduce, criterion, steps=3)
    assert [one.filename for one in warned] == [__file__]


def test_a_mask_of_several_labels():
    criterion = nn.BCEWithLogitsLoss(reduction="none")
    with pytest.warns(UserWarning, match="weighted differently"):
        train(lambda losses: (losses * (normal(ROWS, 3) > 0)).mean(), criterion, LABELS)
    train(lambda losses: (losses * torch.tensor([1.0, 2, 3])).mean(), criterion, LABELS)


EVEN = {
    "a mean": lambda losses: losses.mean(),
    "a sum": lambda losses: 0.1 * losses.sum(),
    "the largest": lambda losses: losses.topk(5).values.mean(),
    "the smallest": lambda losses: losses[losses < losses.median()].sum(),
    "a soft maximum": lambda losses: losses.logsumexp(0),
    "focal": lambda losses: ((1 - (-losses).exp()) ** 2 * losses).mean(),
}


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())
@pytest.mark.parametrize("reduce", EVEN.values(), ids=EVEN.keys())
def test_means_and_what_depends_on_the_losses_are_not(reduce, criterion):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(reduce, criterion, steps=3)


def test_with_a_lam_for_each_example():
    train(UNEVEN["a mask"], nn.CrossEntropyLoss(reduction="none"), p=0.0)  # of no mixed pass
    train(EVEN["a mean"], nn.CrossEntropyLoss(reduction="none"), per_sample=True)
    with pytest.warns(UserWarning, match="weighted differently"):
        train(UNEVEN["weights"], nn.CrossEntropyLoss(reduction="none"), per_sample=True)
