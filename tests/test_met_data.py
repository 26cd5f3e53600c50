"""Data of the batch that an output meets between the model and the criterion are warned of."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manifold_mixup import ManifoldMixup
from states import normal

ROWS = 8
X, Y, SPREAD = normal(ROWS, 5), torch.arange(ROWS) % 3, normal(ROWS, 1).exp()
POSSIBLE, WEIGHT = normal(ROWS, 3) > 0, nn.Parameter(normal(3, 3))
OTHER, LOOKUP = nn.Linear(5, 3), nn.Embedding(ROWS, 3)
SAYS = "combined with values that differ between the examples, by {}"


def attach(*layers, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    return model, ManifoldMixup(model, layers or ["1"], seed=0, **options)


def train(change, steps=1):
    model, mixup = attach()
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    with mixup, warnings.catch_warnings():
        for _ in range(steps):
            criterion(change(model(X)), Y).backward()


MET = {
    "the last value": (lambda o: o + X[:, :3], "AddBackward0"),
    "the last value, minus": (lambda o: X[:, :3] - o, "SubBackward0"),
    "a mean": (lambda o: o + SPREAD.log(), "AddBackward0"),
    "a scale": (lambda o: o * SPREAD, "MulBackward0"),
    "a scale and a mean": (lambda o: SPREAD.log() + o * SPREAD, "MulBackward0"),
    "a divisor": (lambda o: o / SPREAD, "DivBackward0"),
    "possible classes": (lambda o: o.masked_fill(~POSSIBLE, -9.0), "MaskedFillBackward0"),
    "possible classes, where": (lambda o: torch.where(POSSIBLE, o, -9.0), "WhereBackward0"),
    "a margin": (lambda o: o - 0.2 * F.one_hot(Y, 3), "SubBackward0"),
    "a class": (lambda o: o.gather(1, (Y[:, None] + torch.arange(3)) % 3), "GatherBackward0"),
    "a step of each": (
        lambda o: torch.stack([o, 2 * o], 1)[torch.arange(ROWS), Y % 2],
        "IndexBackward0",
    ),
    "a table": (lambda o: F.linear(torch.cat([o, X], 1), torch.ones(3, 8)), "CatBackward0"),
    "a second branch": (lambda o: o + OTHER(X), "AddBackward0"),
    "a gate": (lambda o: o * OTHER(X).sigmoid(), "MulBackward0"),
    "what is looked up": (lambda o: o + LOOKUP(torch.arange(ROWS)), "AddBackward0"),
    "behind a head": (lambda o: (o @ WEIGHT) * SPREAD, "MulBackward0"),
    "before a head": (lambda o: F.linear(o + X[:, :3], WEIGHT), "AddBackward0"),
    "before an activation": (lambda o: F.relu(o + X[:, :3]), "AddBackward0"),
    "before a norm": (lambda o: F.layer_norm((o + X[:, :3])[:, None], (3,))[:, 0], "AddBackward0"),
}


@pytest.mark.parametrize(("change", "by"), MET.values(), ids=MET.keys())
def test_it_is_warned_of(change, by):
    with pytest.warns(UserWarning, match=SAYS.format(by)) as warned:
        train(change)
    assert warned[0].filename == __file__


NOT_MET = {
    "nothing": lambda o: o.double(),
    "a temperature": lambda o: o / 0.5 + 1,
    "priors of the classes": lambda o: o + torch.tensor([0.2, 0.3, 0.5]).log(),
    "priors before a head": lambda o: F.linear(o + torch.tensor([0.2, 0.3, 0.5]), WEIGHT),
    "weights of the classes": lambda o: o * torch.tensor([1.0, 2.0, 3.0]),
    "a head": lambda o: F.linear(F.dropout(F.layer_norm(o, (3,)), 0.3), WEIGHT, WEIGHT[0]),
    "a head as wide as the batch": lambda o: F.linear(o, nn.Parameter(normal(ROWS, 3))),
    "a low-rank head": lambda o: o @ (WEIGHT @ WEIGHT),
    "itself": lambda o: torch.cat([o * o.sigmoid(), o - o.mean(1, keepdim=True)], 1),
    "the same for all": lambda o: o * torch.full((ROWS, 1), 2.0),
    "other classes": lambda o: o[:, torch.tensor([2, 0, 1])],
    "class prototypes": lambda o: F.normalize(o) @ F.normalize(WEIGHT).T,
}


@pytest.mark.parametrize("change", NOT_MET.values(), ids=NOT_MET.keys())
def test_others_are_not_warned_of(change):
    train(change, steps=3)


def test_it_is_warned_of_once_and_only_by_mixed_passes():
    model, mixup = attach()
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    with mixup.paused():
        criterion(model(X) * SPREAD, Y)
    with pytest.warns(UserWarning, match="differ between the examples") as warned:
        train(lambda output: output * SPREAD, steps=3)
    assert len(warned) == 1


def test_the_way_out_has_the_loss_by_hand():
    model, mixup = attach()

    def scaled(output, y, spread):
        return F.cross_entropy(output * spread, y)

    output = model(X)
    loss = mixup.wrap(scaled, with_target="spread")(output, Y, SPREAD)
    plan = mixup.plan
    ends = scaled(output, Y, SPREAD), scaled(output, Y[plan.perm], SPREAD[plan.perm])
    torch.testing.assert_close(loss, plan.lam * ends[0] + (1 - plan.lam) * ends[1])


class Around(nn.Module):
    """Something of the batch goes around its part."""

    def __init__(self, how):
        super().__init__()
        self.stem, self.part, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.how = how

    def forward(self, x):
        return self.head(self.how(self, x))


AROUND = {
    "the input": lambda self, x: self.part(x) + x,
    "a state": lambda self, x: (h := self.stem(x)) + self.part(h),
    "a branch": lambda self, x: self.part(x) * self.stem(x).sigmoid(),
}


@pytest.mark.parametrize("how", AROUND.values(), ids=AROUND.keys())
def test_what_goes_around_a_part_that_was_attached_to(how):
    model = Around(how)
    mixup = ManifoldMixup(model.part, ["input"], seed=0)
    with pytest.warns(UserWarning, match="attach to a model that contains this code"):
        mixup.wrap(nn.CrossEntropyLoss())(model(X), Y)


def test_a_part_that_nothing_goes_around():
    model = Around(lambda self, x: self.part(self.stem(x)).relu())
    with ManifoldMixup(model.part, ["input"], seed=0) as mixup:
        mixup.wrap(nn.CrossEntropyLoss())(model(X), Y).backward()


def test_time_may_come_first():
    model = nn.Linear(5, 3)
    with ManifoldMixup(model, ["input"], batch_dim=1, seed=0) as mixup:
        x, y = normal(7, 4, 5), normal(7, 4, 3)
        criterion = mixup.wrap(nn.MSELoss())
        criterion(model(x) * normal(7, 1, 1), y)  # of each step, the same for all examples
        with pytest.warns(UserWarning, match=SAYS.format("MulBackward0")):
            criterion(model(x) * normal(4, 1), y)
