"""Losses of a mixed pass that no wrapped criterion computed, beside one that did, are warned of."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manifold_mixup import ManifoldMixup
from manifold_mixup._attach.other_losses import Around, running_losses
from states import normal

ROWS = 8
X, Y, VALUES = normal(ROWS, 4), torch.arange(ROWS) % 3, normal(ROWS, 3)
TAUGHT, LABELS = VALUES.softmax(1), (VALUES > 0).float()
CENTRES, LOOKED_UP, HEAD = nn.Parameter(normal(3, 3)), nn.Embedding(3, 3), nn.Linear(3, 4)
SAYS = "seems to read the output or a hidden state, and its targets are not mixed"


class Kept(nn.Module):
    """Keeps two of its states, which no attribute of its outputs shows."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.early = self.late = None

    def forward(self, x):
        self.early = self.first(x).tanh()
        self.late = self.second(self.early).tanh()
        return self.head(self.late)


def attach(layer="second"):
    torch.manual_seed(0)
    model = Kept()
    return model, ManifoldMixup(model, [layer], seed=0)


def train(term, criterion=F.cross_entropy, y=Y, *, first=False, steps=1):
    model, mixup = attach()
    wrapped = mixup.wrap(criterion)
    with mixup:
        for _ in range(steps):
            output = model(X)
            if first:
                loss = term(output, model, mixup) + wrapped(output, y)
            else:
                loss = wrapped(output, y) + term(output, model, mixup)
            loss.backward()


WITH_TARGETS = {
    "cross-entropy": lambda o, *_: F.cross_entropy(o, Y, label_smoothing=0.1),
    "a likelihood": lambda o, *_: F.nll_loss(o.log_softmax(1), Y),
    "gathered": lambda o, *_: -o.log_softmax(1).gather(1, Y[:, None]).mean(),
    "probabilities": lambda o, *_: F.cross_entropy(o, TAUGHT),
    "a teacher": lambda o, *_: F.kl_div(F.log_softmax(o / 2, 1), TAUGHT, reduction="batchmean"),
    "a teacher's logarithms": lambda o, *_: F.kl_div(
        o.log_softmax(1), TAUGHT.log(), log_target=True, reduction="batchmean"
    ),
    "squares": lambda o, *_: 0.1 * F.mse_loss(o, VALUES),
    "squares by hand": lambda o, *_: (VALUES - o).square().mean(),
    "distances": lambda o, *_: F.l1_loss(o, VALUES),
    "smooth distances": lambda o, *_: F.smooth_l1_loss(o, VALUES) + F.huber_loss(o, VALUES),
    "labels": lambda o, *_: F.binary_cross_entropy_with_logits(o, LABELS),
    "labels of probabilities": lambda o, *_: F.binary_cross_entropy(o.sigmoid(), LABELS),
    "margins": lambda o, *_: F.multi_margin_loss(o, Y),
    "centres": lambda o, *_: (o - CENTRES[Y]).square().mean(),
    "embedded centres": lambda o, *_: (o - LOOKED_UP(Y)).square().mean(),
    "a second head": lambda o, *_: F.cross_entropy(HEAD(o), Y),
    "a state": lambda _, model, __: F.cross_entropy(model.late[:, :3], Y),
}


@pytest.mark.parametrize("first", [False, True], ids=["added", "first"])
@pytest.mark.parametrize("term", WITH_TARGETS.values(), ids=WITH_TARGETS.keys())
def test_a_loss_with_targets_is_warned_of_once(term, first):
    with pytest.warns(UserWarning, match=SAYS) as warned:
        train(term, first=first, steps=3)
    assert [one.filename for one in warned] == [__file__]


def paused(output, model, mixup):
    with mixup.paused():
        return F.cross_entropy(model(X), Y)


def claimed(output, model, mixup):
    mixup.target(None, output)
    return F.mse_loss(output, torch.zeros(ROWS, 3))


WITHOUT = {
    "a size": lambda o, *_: 0.1 * o.square().mean() + o.abs().sum(),
    "a penalty of the normaliser": lambda o, *_: o.logsumexp(1).square().mean(),
    "an entropy": lambda o, *_: ((o / 2).softmax(1) * (o / 2).log_softmax(1)).sum(),
    "a penalty of the length": lambda o, *_: (o.norm(dim=1) - 1).square().mean(),
    "a variance": lambda o, *_: (o - o.mean(0)).pow(2).mean() + F.relu(1 - o.std(0)).mean(),
    "a sparse state": lambda _, model, __: model.late.abs().mean(),
    "a state that was not mixed": lambda _, model, __: F.cross_entropy(model.early[:, :3], Y),
    "a gradient": lambda o, model, _: (
        torch.autograd.grad(o.sum(), model.late, create_graph=True)[0].square().sum()
    ),
    "parameters": lambda *_: CENTRES.square().sum() + F.cross_entropy(HEAD(VALUES), Y),
    "a number for the log": lambda o, *_: F.cross_entropy(o.detach(), Y),
    "a pass that was not mixed": paused,
    "a wrapped loss": lambda o, _, mixup: mixup.wrap(nn.MSELoss())(o, VALUES),
    "a mixed target": lambda o, _, mixup: F.cross_entropy(o, mixup.target(Y, o).soft(3)),
    "what was claimed": claimed,
}
CRITERIA = {
    "PyTorch's": (nn.CrossEntropyLoss(), Y),
    "of one's own": (lambda output, y: F.cross_entropy(output, y), Y),
    "interpolated": (nn.MSELoss(), VALUES),
}


@pytest.mark.parametrize(("criterion", "y"), CRITERIA.values(), ids=CRITERIA.keys())
@pytest.mark.parametrize("term", WITHOUT.values(), ids=WITHOUT.keys())
def test_terms_without_targets_and_wrapped_ones_are_not(term, criterion, y):
    train(term, criterion, y, steps=3)


def test_a_loss_that_is_added_late_is_warned_of():
    model, mixup = attach()
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for _ in range(15):
        criterion(model(X), Y).backward()
    output = model(X)  # the sixteenth pass is looked at
    with pytest.warns(UserWarning, match=SAYS):
        (criterion(output, Y) + F.mse_loss(output, VALUES)).backward()


def test_a_backward_pass_of_its_own():
    model, mixup = attach()
    output = model(X)
    mixup.wrap(nn.CrossEntropyLoss())(output, Y).backward(retain_graph=True)
    with pytest.warns(UserWarning, match=SAYS):
        F.mse_loss(output, VALUES).backward()


def test_a_node_that_does_not_tell_its_shape_breaks_no_backward_pass(monkeypatch):
    def has_rows(around, node):
        raise RuntimeError("no metadata")

    monkeypatch.setattr(Around, "has_rows", has_rows)
    train(WITH_TARGETS["squares by hand"])


def test_nodes_may_run_in_a_thread_of_their_own():
    weight, seen = nn.Parameter(torch.ones(2)), []

    def in_a_thread(grad):
        thread = threading.Thread(target=lambda: seen.extend(running_losses()))
        thread.start()
        thread.join()

    (state := 2 * weight).register_hook(in_a_thread)
    loss = state.sum()
    loss.backward()
    assert len(seen) == 1
    assert seen[0] is loss
    assert running_losses() == []
