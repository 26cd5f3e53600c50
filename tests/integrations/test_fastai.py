"""fastai: a Learner that mixes hidden states."""

import copy
import importlib.util
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from manifold_mixup import Cut, ManifoldMixup, Near, Remix
from with_positions import Maps, hand_split

if importlib.util.find_spec("fastai") is None:
    pytest.skip("fastai is not installed", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # from fastai's imports
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat, L1LossFlat
    from fastai.optimizer import SGD

    from manifold_mixup.integrations.fastai import ManifoldMixupCallback

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning", "ignore:.*torch.cuda.amp:FutureWarning"
)
LAYERS = ["input", "0", "2"]
GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [
    (torch.randn(12, 5, generator=GENERATOR), torch.arange(12) % 3) for _ in range(4)
]  # instead of data loaders, in a fixed order


VALUES = [(x, torch.randn(12, 3, generator=GENERATOR)) for x, _ in BATCHES]


def learner(callback, loss=None, batches=BATCHES):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    loss = loss or CrossEntropyLossFlat()
    options = {"loss_func": loss, "opt_func": SGD, "lr": 0.1, "wd": 0.0, "train_bn": False}
    found = Learner(DataLoaders(batches, batches), model, cbs=callback, **options)
    found.remove_cbs([cb for cb in found.cbs if type(cb).__name__ == "ProgressCallback"])
    return found


def by_hand(epochs, criterion, batches=BATCHES, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    mixup = ManifoldMixup(model, LAYERS, seed=3, **options)
    mixed, optimizer = mixup.wrap(criterion), torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            if mixup.needs_targets:
                mixup.batch(y)
            mixed(model(x), y).backward()
            optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("loss", [CrossEntropyLossFlat, nn.CrossEntropyLoss])
def test_a_fit_is_the_training_written_out(loss, per_sample):
    learn = learner(ManifoldMixupCallback(LAYERS, seed=3, per_sample=per_sample), loss())
    plain = learn.loss_func
    with learn.no_logging():
        learn.fit(2)
    expected = by_hand(2, nn.CrossEntropyLoss(), per_sample=per_sample)
    torch.testing.assert_close(dict(learn.model.state_dict()), dict(expected))
    assert learn.loss_func is plain
    assert plain.reduction == "mean"
    assert not learn.model[0]._forward_hooks


@pytest.mark.parametrize("per_sample", [False, True])
def test_values_are_mixed_as_by_the_loss_that_fastai_flattens(per_sample):
    """It uses L1, for which interpolating the losses would have another gradient."""
    learn = learner(
        ManifoldMixupCallback(LAYERS, seed=3, per_sample=per_sample), L1LossFlat(), VALUES
    )
    with learn.no_logging():
        learn.fit(2)
    expected = by_hand(2, nn.L1Loss(), VALUES, per_sample=per_sample)
    torch.testing.assert_close(dict(learn.model.state_dict()), dict(expected))


@pytest.mark.parametrize(
    ("rules", "batches"),
    [
        ({"pairs": "other_class", "label": Remix((9, 3, 1))}, BATCHES),
        ({"pairs": Near(0.5)}, VALUES),
    ],
)
def test_plans_that_depend_on_the_targets_are_given_those_of_the_batch(rules, batches):
    plain, flat = (
        (nn.CrossEntropyLoss, CrossEntropyLossFlat)
        if batches is BATCHES
        else (nn.L1Loss, L1LossFlat)
    )
    learn = learner(ManifoldMixupCallback(LAYERS, seed=3, **rules), flat(), batches)
    with learn.no_logging():
        learn.fit(2)
    expected = by_hand(2, plain(), batches, **rules)
    torch.testing.assert_close(dict(learn.model.state_dict()), dict(expected))


class Steps(Callback):
    """Records what a loss by hand needs of each step."""

    run_valid = False

    def __init__(self, mixing):
        super().__init__()
        self.mixing, self.seen = mixing, []

    def before_batch(self):
        self.before = copy.deepcopy(self.learn.model.state_dict())

    def after_loss(self):
        loss = self.learn.loss_grad.detach().clone()
        self.seen.append(
            (self.before, *self.learn.xb, *self.learn.yb, self.mixing.mixup.plan, loss)
        )


@pytest.mark.parametrize("per_sample", [False, True])
def test_losses_of_states_that_are_cut_are_those_by_hand(per_sample):
    torch.manual_seed(0)
    batches = [(torch.randn(12, 2, 8, 8), torch.arange(12) % 3) for _ in range(4)]
    layers = ["input", "conv1", "conv2"]
    mixing = ManifoldMixupCallback(layers, seed=3, blend=Cut(), per_sample=per_sample)
    learn, steps, model = learner(mixing, batches=batches), Steps(mixing), Maps()
    learn.model = Maps()
    with learn.no_logging():
        learn.fit(2, cbs=steps)
    cut = 0
    for before, x, y, plan, loss in steps.seen:
        model.load_state_dict(before)
        output = hand_split(model, x, plan)
        share = plan.weight.float().mean((1, 2))  # of the positions that each example keeps
        assert len(share) == (12 if per_sample else 1)
        own, partner = (
            nn.functional.cross_entropy(output, target, reduction="none")
            for target in (y, y[plan.perm])
        )
        torch.testing.assert_close(loss, (share * own + (1 - share) * partner).mean().detach())
        cut += bool((share != 1).any())
    assert len(steps.seen) == 8
    assert not torch.equal(steps.seen[0][0]["head.weight"], before["head.weight"])
    assert cut > 4


def test_a_learner_goes_on_with_the_plans():
    whole = learner(ManifoldMixupCallback(LAYERS, seed=3))
    callback = ManifoldMixupCallback(LAYERS, seed=3)
    halves = learner(callback)
    for learn, epochs in ((whole, [3]), (halves, [1])):
        with learn.no_logging():
            for count in epochs:
                learn.fit(count)
    resumed = learner(ManifoldMixupCallback(LAYERS, state=callback.state))
    resumed.model.load_state_dict(halves.model.state_dict())
    with resumed.no_logging():
        resumed.fit(1)
        resumed.fit(1)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict())


def test_layers_are_chosen_by_a_batch():
    callback = ManifoldMixupCallback(seed=0)
    learn = learner(callback)
    samples = [(x, y) for batch in BATCHES for x, y in zip(*batch, strict=True)]
    learn.dls = DataLoaders(DataLoader(samples, bs=12), DataLoader(samples, bs=12))
    with learn.no_logging():
        learn.fit(1)
    assert callback.mixup.layers[0] == "input"
    assert len(callback.mixup.layers) > 1


class Failing(Callback):
    def after_pred(self):
        raise ZeroDivisionError("on purpose")


def test_a_fit_that_failed_leaves_the_next_one_free():
    learn = learner(ManifoldMixupCallback(LAYERS))
    plain = learn.loss_func
    with learn.no_logging():
        with pytest.raises(ZeroDivisionError):
            learn.fit(1, cbs=Failing())
        learn.fit(1)
    assert learn.loss_func is plain


def test_the_recipe_runs(capsys):
    page = Path(__file__).parents[2] / "docs" / "recipes" / "fastai.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    exec(compile(code, page.name, "exec"), {})
