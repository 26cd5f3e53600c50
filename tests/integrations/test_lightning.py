"""Real, short trainings by Lightning's Trainer: the same losses and bits as a loop by hand."""

import copy
import csv
import functools
import gc
import os
import random
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from timm.data import FastCollateMixup
from timm.data import Mixup as TimmMixup
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision.transforms import v2

import lightning_worker as worker
import processes
from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan
from manifold_mixup.integrations.lightning import ManifoldMixupCallback

pytestmark = [
    # Lightning's advice on loaders, loops and logs as small as these.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    # Lightning 2.6 uses what PyTorch 2.14 has a new name for.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    # The compiler looks for gradients everywhere; where warnings are errors what it finds is one.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

ROWS, BATCH, FEATURES, CLASSES = 24, 8, 6, 3
LAYERS = ["stem", "body"]
needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"
)
PAGE = Path(__file__).parents[2] / "docs" / "recipes" / "lightning.md"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(FEATURES, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.body(torch.tanh(self.stem(x)))))


class Lit(LightningModule):
    """As most people write it."""

    def __init__(self, call="self"):
        super().__init__()
        torch.manual_seed(0)
        self.model = Net()
        self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
        self.losses, self.validated = [], []

    def forward(self, x):
        return self.model(x)

    def loss(self, x, y):
        return self.criterion(self(x), y)

    def training_step(self, batch, _):
        loss = self.loss(*batch)
        self.losses.append(loss.detach())
        return loss

    def validation_step(self, batch, _):
        self.validated.append(self.loss(*batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Plans(Callback):
    """Writes down the plan of every step."""

    def __init__(self, mixing):
        self.mixing, self.seen = mixing, []

    def on_train_batch_end(self, *_):
        self.seen.append(as_data(self.mixing.mixup.plan))


def as_data(plan):
    return None if plan is None else (plan.layer, plan.lam.tolist(), plan.perm.tolist())


def dataset():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    return TensorDataset(x, torch.randint(CLASSES, (ROWS,), generator=generator))


def loader(**options):
    return DataLoader(dataset(), BATCH, **options)


def fit(lit, mixing, *, data=None, validate=False, ckpt_path=None, callbacks=(), **options):
    """Train, and return the trainer and the plans of all steps."""
    plans = Plans(mixing)
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(**(settings | options), callbacks=[mixing, plans, *callbacks])
    trainer.fit(lit, data or loader(), loader() if validate else None, ckpt_path=ckpt_path)
    return trainer, plans.seen


def by_hand(epochs=2, accumulate=1, autocast=None, **options):
    """Train by the library's own loop; return the losses, the plans and the model's state."""
    lit = Lit()
    mixup = ManifoldMixup(lit.model, LAYERS, **({"seed": 0} | options))
    criterion = mixup.wrap(lit.criterion)
    optimizer = lit.configure_optimizers()
    losses, plans = [], []
    batches = [numbered for _ in range(epochs) for numbered in enumerate(loader(), 1)]
    for number, (x, y) in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            loss = criterion(lit.model(x), y)
        (loss / accumulate).backward()
        losses.append(loss.detach())
        plans.append(as_data(mixup.plan))
        if number % accumulate == 0 or number == ROWS // BATCH:
            optimizer.step()
            optimizer.zero_grad()
    return losses, plans, lit.model.state_dict()


def assert_same(lit, plans, expected):
    losses, expected_plans, state = expected
    assert plans == expected_plans
    assert torch.equal(torch.stack(lit.losses), torch.stack(losses))
    assert all(torch.equal(state[name], value) for name, value in lit.model.state_dict().items())


def assert_untouched(lit, criterion):
    assert lit.criterion is criterion
    assert "criterion" not in vars(lit) or not isinstance(criterion, nn.Module)
    for module in lit.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


# The same as by hand


def test_losses_plans_and_weights_are_those_of_a_loop_by_hand():
    lit = Lit()
    criterion, keys = lit.criterion, list(lit.state_dict())
    _, plans = fit(lit, ManifoldMixupCallback(LAYERS, seed=0))
    assert_same(lit, plans, by_hand())
    assert {layer for layer, _, _ in plans} == set(LAYERS)
    assert list(lit.state_dict()) == keys
    assert_untouched(lit, criterion)


def test_the_first_loss_is_that_of_the_papers_equation():
    lit = Lit()
    net = copy.deepcopy(lit.model)
    _, plans = fit(lit, ManifoldMixupCallback(["stem"], seed=3))
    x, y = next(iter(loader()))
    _, lam, perm = plans[0]
    state = net.stem(x)
    state = torch.tanh(lam * state + (1 - lam) * state[perm])
    output = net.head(torch.tanh(net.body(state)))
    loss = lam * lit.criterion(output, y) + (1 - lam) * lit.criterion(output, y[perm])
    torch.testing.assert_close(lit.losses[0], loss.detach())


class CallsTheModel(Lit):
    def loss(self, x, y):
        return self.criterion(self.model(x), y)


class Flat(Lit):
    """A LightningModule whose forward is all there is."""

    def forward(self, x):
        model = self.model
        return model.head(torch.tanh(model.body(torch.tanh(model.stem(x)))))


class LossFunction(Lit):
    """A loss that is no module, in an attribute."""

    def __init__(self):
        super().__init__()
        self.loss_function = functools.partial(
            functional.cross_entropy, weight=self.criterion.weight
        )

    def loss(self, x, y):
        return self.loss_function(self(x), y)


class LossMethod(Lit):
    def measure(self, output, target):
        return functional.cross_entropy(output, target, weight=self.criterion.weight)

    def loss(self, x, y):
        return self.measure(self(x), target=y)


class ByName(Lit):
    """A loss that is called by the names that PyTorch gives its arguments."""

    def loss(self, x, y):
        return self.criterion(input=self(x), target=y)


class NamedTarget(Lit):
    def loss(self, x, y):
        return self.criterion(self(x), target=y)


class OwnTarget(Lit):
    """A loss computed from the target, by a callback that the LightningModule brings along."""

    mixing = None

    def loss(self, x, y):
        output = self(x)
        return self.mixing.target(y, output).loss(self.criterion, output)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CallsTheModel, {}),
        (Flat, {"module": None, "layers": ["model.stem", "model.body"]}),
        (LossFunction, {"criterion": "loss_function"}),
        (LossMethod, {"criterion": "measure"}),
        (ByName, {}),
        (NamedTarget, {}),
        (OwnTarget, {"criterion": None}),
    ],
)
def test_every_way_to_write_a_training_step(kind, options):
    lit = kind()
    before = dict(vars(lit))
    mixing = ManifoldMixupCallback(**({"layers": LAYERS, "seed": 0} | options))
    if kind is OwnTarget:
        lit.mixing = mixing
    _, plans = fit(lit, mixing, validate=True)
    losses, expected, state = by_hand()
    assert [(layer.removeprefix("model."), *rest) for layer, *rest in plans] == expected
    assert_same(lit, expected, (losses, expected, state))
    assert vars(lit).get("loss_function") is before.get("loss_function")
    assert "measure" not in vars(lit)


class Weighted(Lit):
    """A loss with a weight for each example, which belongs to its target."""

    def measure(self, output, target, weight):
        return (weight * functional.cross_entropy(output, target, reduction="none")).mean()

    def loss(self, x, y):
        return self.measure(self(x), y, weight=1.0 + x[:, 0].abs())


def test_a_further_argument_that_belongs_to_the_target():
    mixing = ManifoldMixupCallback(LAYERS, criterion="measure", with_target=["weight"], seed=0)
    lit = Weighted()
    net = copy.deepcopy(lit.model)
    _, ((layer, lam, perm), *_) = fit(lit, mixing)
    x, y = next(iter(loader()))
    weight = 1.0 + x[:, 0].abs()
    with ManifoldMixup(net, [layer]) as mixup:
        with mixup.using(MixPlan(layer, torch.tensor(lam), torch.tensor(perm))):
            output = net(x)
        mixup.target(None, output)
        own = lit.measure(output, y, weight)
        partner = lit.measure(output, y[perm], weight[perm])
    torch.testing.assert_close(lit.losses[0], (lam * own + (1 - lam) * partner).detach())
    with pytest.raises(ValueError, match="with_target needs a criterion, but criterion is None"):
        ManifoldMixupCallback(LAYERS, criterion=None, with_target=["weight"])


def test_a_loss_by_name_has_an_accuracy_in_the_log(tmp_path):
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    options = {"logger": CSVLogger(tmp_path), "log_every_n_steps": 1, "max_epochs": 1}
    fit(ByName(), mixing, **options)
    steps = [row for row in logged(tmp_path) if row["mixup_lam"]]
    assert len(steps) == ROWS // BATCH
    assert all(row["mixup_accuracy"] for row in steps)


def test_accumulated_gradients():
    lit = Lit()
    _, plans = fit(lit, ManifoldMixupCallback(LAYERS, seed=0), accumulate_grad_batches=2)
    assert_same(lit, plans, by_hand(accumulate=2))


def test_mixed_precision_and_a_lambda_per_sample():
    lit = Lit()
    mixing = ManifoldMixupCallback(LAYERS, seed=0, per_sample=True)
    fit(lit, mixing, precision="bf16-mixed", max_epochs=1)
    losses, _, state = by_hand(epochs=1, autocast=torch.bfloat16, per_sample=True)
    assert torch.equal(torch.stack(lit.losses), torch.stack(losses))
    assert torch.equal(lit.model.head.weight, state["head.weight"])


def test_evaluation_is_plain():
    lit = Lit()
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    trainer, plans = fit(lit, mixing, validate=True)
    assert_same(lit, plans, by_hand())  # the sanity check took no plan either
    mixed, lit.validated = lit.validated[-3:], []
    trainer.validate(lit, loader(), verbose=False)
    assert mixed == lit.validated


# Compiled


@pytest.mark.parametrize("what", ["in place", "everything"])
def test_compiled(what, fresh_compiler):
    lit = Lit()
    compiled = torch.compile(lit, backend="eager") if what == "everything" else lit
    if what == "in place":
        lit.model.compile(backend="eager")
    _, plans = fit(compiled, ManifoldMixupCallback(LAYERS, seed=0))
    losses, expected, _ = by_hand()
    assert plans == expected
    torch.testing.assert_close(torch.stack(lit.losses), torch.stack(losses))


@pytest.mark.parametrize("before", ["with the callback", "without it"])
def test_a_submodule_that_was_compiled_and_trained_before(before, fresh_compiler):
    """Code that was compiled without the hooks, or with those of an earlier fit, is not used."""
    lit = Lit()
    lit.model = torch.compile(lit.model, backend="eager")
    state = copy.deepcopy(lit.state_dict())
    if before == "with the callback":
        fit(lit, ManifoldMixupCallback(LAYERS, seed=1), max_epochs=1)
    else:
        for x, y in loader():
            lit.loss(x, y).backward()
        lit.zero_grad()
    lit.load_state_dict(state)
    lit.losses = []
    fit(lit, ManifoldMixupCallback(LAYERS, seed=0), validate=True)
    torch.testing.assert_close(torch.stack(lit.losses), torch.stack(by_hand()[0]))


# Checkpoints and further fits


class Saves(Callback):
    """Writes a checkpoint after a step, as ModelCheckpoint does."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class Resumable:
    """A loader that goes on where it was saved, as torchdata's StatefulDataLoader does."""

    def __init__(self):
        self.batches, self.given = list(loader()), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.given %= len(self)
        for batch in self.batches[self.given :]:
            self.given += 1
            yield batch

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]


@pytest.mark.parametrize("step", [3, 4])  # the end of an epoch, and within the next
def test_a_resumed_fit_ends_in_the_same_bits(step, tmp_path):
    path = tmp_path / "saved.ckpt"
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    fit(Lit(), mixing, data=Resumable(), max_steps=step, callbacks=[Saves(step, path)])
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"].keys() == Lit().state_dict().keys()
    lit = Lit()
    mixing = ManifoldMixupCallback(LAYERS, seed=99)  # the checkpoint's counts
    _, plans = fit(lit, mixing, data=Resumable(), max_epochs=3, ckpt_path=path)
    _, expected, state = by_hand(epochs=3)
    assert plans == expected[step:]
    assert all(torch.equal(state[name], value) for name, value in lit.model.state_dict().items())


def test_a_state_that_is_restored_after_the_fit_has_started():
    """As the Trainer does it where the strategy shards the model first."""

    class Restores(Callback):
        def on_train_start(self, trainer, lit):
            trainer.callbacks[0].load_state_dict({"seed": 0, "step": 3})

    _, plans = fit(Lit(), ManifoldMixupCallback(LAYERS), max_epochs=1, callbacks=[Restores()])
    assert plans == by_hand()[1][3:]


def test_a_trainer_that_goes_on_draws_on_and_a_new_one_anew():
    lit, mixing = Lit(), ManifoldMixupCallback(LAYERS, seed=0)
    trainer, plans = fit(lit, mixing, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(lit, loader())
    losses, expected, _ = by_hand()
    assert trainer.callbacks[1].seen == expected
    assert torch.equal(torch.stack(lit.losses[:4]), torch.stack(losses[:4]))  # then by momentum
    _, anew = fit(Lit(), mixing, max_epochs=1)
    assert anew == plans[: len(anew)]
    assert mixing.state_dict() == {"seed": 0, "step": 3}


# Finders and averages


class Tuned(Lit):
    """A LightningModule that a finder can try out, which writes down what it does."""

    fails_above = 1000

    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 0.1, 2
        self.plans, self.dropped = [], []

    def train_dataloader(self):
        return DataLoader(dataset(), self.batch_size)

    def val_dataloader(self):
        return loader()

    def training_step(self, batch, _):
        assert all(output() is None for output in self.dropped)
        output = self(batch[0])
        loss = self.criterion(output, batch[1])
        self.plans.append(as_data(self.trainer.mixing.mixup.plan))
        self.losses.append(loss.detach())
        if len(output) > self.fails_above:
            self.dropped.append(weakref.ref(output))
            raise RuntimeError("CUDA out of memory.")  # as it would be in backward
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def trainer_of(mixing, *callbacks, folder, **options):
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    trainer = Trainer(
        **(settings | options), callbacks=[mixing, *callbacks], default_root_dir=folder
    )
    trainer.mixing = mixing
    return trainer


def steps_by_hand(rates, sizes):
    """Return the losses and plans of steps with learning rates and batch sizes of their own."""
    lit = Tuned()
    mixup = ManifoldMixup(lit.model, LAYERS, seed=0)
    criterion, optimizer = mixup.wrap(lit.criterion), lit.configure_optimizers()
    losses, plans, before = [], [], None
    for rate, size in zip(rates, sizes, strict=True):
        if size != before:
            batches, before = iter([]), size
        try:
            x, y = next(batches)
        except StopIteration:
            batches = iter(DataLoader(dataset(), size))
            x, y = next(batches)
        loss = criterion(lit.model(x), y)
        losses.append(loss.detach())
        plans.append(as_data(mixup.plan))
        if rate is not None:  # a step that failed
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    return losses, plans


def assert_fits_as_if_nothing_had_been_tried(lit, mixing):
    """The weights, the optimizer and the stream of plans are where they were."""
    steps = 2 * ROWS // lit.batch_size
    losses, plans = steps_by_hand([lit.lr] * steps, [lit.batch_size] * steps)
    assert lit.plans == plans
    assert torch.equal(torch.stack(lit.losses), torch.stack(losses))
    assert mixing.state_dict() == {"seed": 0, "step": len(plans)}


@pytest.mark.parametrize("way", ["tuner", "callback"])
def test_a_learning_rate_is_found_for_mixed_training(way, tmp_path):
    lit, mixing, tries = Tuned(), ManifoldMixupCallback(LAYERS, seed=0), 6
    lit.batch_size = BATCH
    options = {"min_lr": 1e-3, "max_lr": 2.0, "update_attr": False, "early_stop_threshold": None}
    if way == "tuner":
        trainer = trainer_of(mixing, folder=tmp_path)
        found = Tuner(trainer).lr_find(lit, num_training=tries, **options)
        assert_untouched(lit, lit.criterion)
        assert isinstance(lit.criterion, nn.CrossEntropyLoss)
        trainer.fit(lit)
    else:
        finder = LearningRateFinder(num_training_steps=tries, **options)
        trainer = trainer_of(mixing, finder, folder=tmp_path)
        trainer.fit(lit)
        found = finder.optimal_lr
    losses, plans = steps_by_hand(found.results["lr"], [BATCH] * tries)
    assert lit.plans[:tries] == plans
    torch.testing.assert_close(torch.stack(lit.losses[:tries]), torch.stack(losses))
    lit.plans, lit.losses = lit.plans[tries:], lit.losses[tries:]
    assert_fits_as_if_nothing_had_been_tried(lit, mixing)


@pytest.fixture
def small_heap():
    """Keep the collector from what is there already: the finder collects once a trial."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("way", ["tuner", "callback"])
def test_a_batch_size_is_found_for_mixed_training(way, tmp_path, small_heap):
    lit, mixing = Tuned(), ManifoldMixupCallback(LAYERS, seed=0)
    lit.fails_above = 12
    options = {"mode": "binsearch", "margin": 0.0, "steps_per_trial": 2}
    if way == "tuner":
        trainer = trainer_of(mixing, folder=tmp_path)
        assert Tuner(trainer).scale_batch_size(lit, **options) == 12
        trainer.fit(lit)
    else:
        trainer = trainer_of(mixing, BatchSizeFinder(**options), folder=tmp_path)
        trainer.fit(lit)
    assert lit.batch_size == 12
    assert len(lit.dropped) == 3
    sizes = [2, 2, 4, 4, 8, 8, 16, 12, 12, 14, 13]
    rates = [None if size > lit.fails_above else lit.lr for size in sizes]
    losses, plans = steps_by_hand(rates, sizes)
    assert lit.plans[: len(sizes)] == plans
    torch.testing.assert_close(torch.stack(lit.losses[: len(sizes)]), torch.stack(losses))
    lit.plans, lit.losses = lit.plans[len(sizes) :], lit.losses[len(sizes) :]
    assert_fits_as_if_nothing_had_been_tried(lit, mixing)


def test_a_finder_in_a_resumed_fit_draws_on_where_the_checkpoint_was(tmp_path):
    path = tmp_path / "saved.ckpt"
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    fit(Lit(), mixing, callbacks=[Saves(3, path)], max_epochs=1)
    lit, mixing = Lit(), ManifoldMixupCallback(LAYERS, seed=99)
    finder = LearningRateFinder(num_training_steps=4, update_attr=False)
    options = {"callbacks": [finder], "ckpt_path": path, "default_root_dir": tmp_path}
    _, plans = fit(lit, mixing, **options)
    # Lightning's finder loses the place in the epochs, callback or not: it counts both anew.
    assert plans == by_hand(epochs=3)[1][3:]


class BreaksOnce(Tuned):
    broken = False

    def training_step(self, batch, number):
        loss = super().training_step(batch, number)
        if not self.broken and number == 1:
            self.broken = True
            raise RuntimeError("mine")
        return loss


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_finder_that_fails_leaves_nothing_that_is_in_the_way(tmp_path):
    """It forgets the callbacks, so that none is told of its end."""
    lit = BreaksOnce()
    criterion = lit.criterion
    with pytest.raises(RuntimeError, match="mine"):
        Tuner(trainer_of(ManifoldMixupCallback(LAYERS), folder=tmp_path)).lr_find(lit)
    lit.plans, lit.losses, lit.batch_size = [], [], BATCH
    lit.load_state_dict(Tuned().state_dict())
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    trainer_of(mixing, folder=tmp_path).fit(lit)
    assert_fits_as_if_nothing_had_been_tried(lit, mixing)
    assert_untouched(lit, criterion)


def test_a_finder_refuses_a_module_in_eval_mode(tmp_path):
    lit = Tuned()
    lit.model.eval()
    trainer = trainer_of(ManifoldMixupCallback(LAYERS), folder=tmp_path)
    with pytest.raises(RuntimeError, match="is in eval mode"):
        Tuner(trainer).lr_find(lit)
    assert lit.losses == []
    assert_untouched(lit, lit.criterion)


class WithBatchNorm(Lit):
    def __init__(self):
        super().__init__()
        self.model.stem = nn.Sequential(self.model.stem, nn.BatchNorm1d(8))
        self.model.body = nn.Sequential(self.model.body, nn.BatchNorm1d(8))


def test_the_batch_statistics_of_averaged_weights_are_those_of_update_bn():
    lit, mixing = WithBatchNorm(), ManifoldMixupCallback(["input", "stem.0"], alpha=4.0, seed=0)
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2)
    _, plans = fit(lit, mixing, max_epochs=3, callbacks=[averaging])
    batches, found = ROWS // BATCH, copy.deepcopy(dict(lit.model.named_buffers()))
    assert len(plans) == 4 * batches  # with the epoch that takes them
    assert None not in plans[: 3 * batches]
    assert plans[3 * batches :] == [None] * batches
    assert mixing.state_dict()["step"] == 3 * batches
    # Of the averaged weights: Lightning's own last step moves the module's on, callback or not.
    averaged = averaging.state_dict()["average_model_state"]
    lit.load_state_dict({name: averaged[name] for name in lit.state_dict()}, strict=True)
    update_bn(loader(), lit.model)
    expected = dict(lit.model.named_buffers())
    assert any(name.endswith("running_var") for name in expected)
    for name, buffer in found.items():
        torch.testing.assert_close(buffer, expected[name])
    plain = [lit.criterion(lit.model(x), y) for x, y in loader()]
    torch.testing.assert_close(torch.stack(lit.losses[-batches:]), torch.stack(plain))


def test_without_batch_statistics_every_epoch_of_averaging_is_mixed():
    lit, mixing = Lit(), ManifoldMixupCallback(LAYERS, seed=0)
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    _, plans = fit(lit, mixing, callbacks=[averaging])
    assert plans == by_hand()[1]


def test_a_running_average_of_the_weights_does_not_mix():
    lit, mixing = Lit(), ManifoldMixupCallback(LAYERS, seed=0)
    averaging = EMAWeightAveraging(decay=0.5)
    _, plans = fit(lit, mixing, callbacks=[averaging], validate=True)
    losses, expected, _ = by_hand()
    assert plans == expected
    assert torch.equal(torch.stack(lit.losses), torch.stack(losses))
    assert torch.equal(
        lit.validated[-1], lit.criterion(lit.model(*[list(loader())[-1][0]]), list(loader())[-1][1])
    )


# Logs


def logged(folder):
    (path,) = Path(folder).rglob("metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_what_was_mixed_is_logged(tmp_path):
    class Accuracies(Plans):
        def on_train_batch_end(self, trainer, lit, *_):
            self.seen.append(self.mixing.mixup.plan)

    mixing = ManifoldMixupCallback(LAYERS, seed=0, p=0.6)
    lit, plans = Lit(), Accuracies(mixing)
    lit.criterion = nn.CrossEntropyLoss(ignore_index=1)
    outputs = []
    lit.model.register_forward_hook(lambda module, args, output: outputs.append(output))
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path)]
    fit(lit, mixing, logger=loggers, log_every_n_steps=1, max_epochs=1, callbacks=[plans])
    rows = logged(tmp_path)
    steps = [row for row in rows if row["mixup_lam"]]
    assert {plan is None for plan in plans.seen} == {True, False}
    for row, plan in zip(steps, plans.seen, strict=True):
        assert float(row["mixup_lam"]) == pytest.approx(1.0 if plan is None else float(plan.lam))
        assert float(row["mixup_layer"]) == (-1 if plan is None else LAYERS.index(plan.layer))
    accuracies = [
        float(MixedTarget(y, plan).accuracy(output, ignore_index=1))
        for (_, y), plan, output in zip(loader(), plans.seen, outputs, strict=True)
    ]
    assert [float(row["mixup_accuracy"]) for row in steps] == pytest.approx(accuracies)


class CountsLogs(Lit):
    logs = 0

    def log_dict(self, *args, **kwargs):
        self.logs += 1
        super().log_dict(*args, **kwargs)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, [1, 3, 5, 7, 9, 11]), (2, [1, 3, 5, 7])])
def test_it_is_logged_at_the_steps_that_the_trainer_logs_alone(accumulate, steps, tmp_path):
    """Logging costs more than mixing."""
    lit, mixing = CountsLogs(), ManifoldMixupCallback(LAYERS, seed=0)
    options = {"log_every_n_steps": 2, "accumulate_grad_batches": accumulate}
    fit(lit, mixing, logger=CSVLogger(tmp_path), max_epochs=4, **options)
    assert [int(row["step"]) for row in logged(tmp_path) if row["mixup_lam"]] == steps
    assert lit.logs < 12  # batches


def test_soft_targets_have_no_accuracy_and_log_can_be_left_out(tmp_path):
    class Soft(Lit):
        def loss(self, x, y):
            return self.criterion(self(x), functional.one_hot(y, CLASSES).float())

    for number, log in enumerate([True, False]):
        folder = tmp_path / str(number)
        mixing = ManifoldMixupCallback(LAYERS, log=log)
        fit(Soft(), mixing, logger=CSVLogger(folder), log_every_n_steps=1, max_epochs=1)
        names = set().union(*logged(folder)) if log else set()
        assert {name for name in names if name.startswith("mixup")} == (
            {"mixup_lam", "mixup_layer"} if log else set()
        )


def test_barebones():
    lit = Lit()
    barebones = {"barebones": True, "enable_checkpointing": None, "enable_progress_bar": None}
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    trainer = Trainer(barebones=True, max_epochs=1, accelerator="cpu", callbacks=[mixing])
    trainer.fit(lit, loader())
    assert barebones
    assert torch.equal(torch.stack(lit.losses), torch.stack(by_hand(epochs=1)[0]))


# Layers chosen from an example


@pytest.mark.parametrize("given", ["example", "example_input_array"])
def test_layers_from_an_example(given):
    lit, options = Lit(), {"seed": 0}
    if given == "example":
        options["example"] = torch.zeros(2, FEATURES)
    else:
        lit.example_input_array = torch.zeros(2, FEATURES)
    mixing = ManifoldMixupCallback(**options)
    fit(lit, mixing, max_epochs=1)
    assert "input" in mixing.mixup.layers


# What is refused


class LossInside(Lit):
    """A loss that the callback knows nothing of."""

    def loss(self, x, y):
        return functional.cross_entropy(self(x), y)


class NoLabels(Lit):
    def loss(self, x, y):
        return self(x).square().mean()


def frozen():
    lit = Lit()
    lit.model.eval()
    return lit


@pytest.mark.parametrize(
    ("lit", "options", "error", "fragments"),
    [
        (Lit, {"module": "net"}, ValueError, ["no submodule 'net'", "['model', 'criterion']"]),
        (Lit, {"criterion": "loss_fn"}, ValueError, ["no 'loss_fn'", "criterion=None"]),
        (Lit, {"layers": ["stm"]}, ValueError, ["Did you mean 'stem'"]),
        (Lit, {"layers": None}, ValueError, ["Pass example=x"]),
        (Lit, {"alhpa": 1.0}, TypeError, ["alhpa"]),
        (LossInside, {}, RuntimeError, ["targets were not mixed"]),
        (NoLabels, {}, RuntimeError, ["targets were not mixed"]),
        (frozen, {}, RuntimeError, ["module='model' is in eval mode", "call its train()"]),
    ],
)
def test_wrong_uses(lit, options, error, fragments):
    module = lit()
    criterion = module.criterion
    with pytest.raises(error) as caught:
        fit(module, ManifoldMixupCallback(**({"layers": LAYERS} | options)))
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert_untouched(module, criterion)


class CallsForward(Lit):
    def forward(self, x):
        return self.model.forward(x)


class CallsForwardAndMixesNothing(LossInside):
    def forward(self, x):
        return self.model.forward(x)


@pytest.mark.parametrize("lit", [LossInside, CallsForward])
def test_an_error_of_the_library_says_what_to_do_in_lightning(lit):
    with pytest.raises(RuntimeError) as caught:
        fit(lit(), ManifoldMixupCallback(LAYERS))
    (note,) = caught.value.__notes__
    assert "training_step must call module='model'" in note
    assert "criterion='criterion'" in note
    assert "callback.target(y, output).loss(" in note


class FreezesTooLate(Lit):
    def on_train_start(self):  # after the callbacks
        self.model.eval()


def test_a_module_that_is_put_in_eval_mode_as_the_training_starts():
    lit = FreezesTooLate()
    with pytest.raises(RuntimeError, match="module='model' is in eval mode"):
        fit(lit, ManifoldMixupCallback(LAYERS))
    assert len(lit.losses) == 1
    assert_untouched(lit, lit.criterion)


def test_a_resumed_fit_whose_module_is_never_called_is_found_out(tmp_path):
    path = tmp_path / "saved.ckpt"
    fit(Lit(), ManifoldMixupCallback(LAYERS), max_epochs=1, callbacks=[Saves(3, path)])
    with pytest.raises(RuntimeError, match="module='model' was never called in training"):
        fit(CallsForwardAndMixesNothing(), ManifoldMixupCallback(LAYERS), ckpt_path=path)


def test_a_module_that_is_never_called_is_found_out():
    with pytest.raises(RuntimeError, match="module='model' was never called in training"):
        fit(CallsForwardAndMixesNothing(), ManifoldMixupCallback(LAYERS))


def test_an_exception_of_the_users_own_detaches_and_gets_no_note():
    class Breaks(Lit):
        def on_train_epoch_end(self):
            raise RuntimeError("mine")

    lit, mixing = Breaks(), ManifoldMixupCallback(LAYERS, seed=0)
    criterion = lit.criterion
    with pytest.raises(RuntimeError, match="mine") as caught:
        fit(lit, mixing)
    assert not getattr(caught.value, "__notes__", ())
    assert_untouched(lit, criterion)
    fit(Lit(), mixing)  # and it can be used again


def test_a_criterion_that_is_mixed_already_and_a_second_callback():
    lit = Lit()
    lit.criterion = ManifoldMixup(Net(), LAYERS).wrap(lit.criterion)
    with pytest.raises(TypeError, match="already wrapped"):
        fit(lit, ManifoldMixupCallback(LAYERS))

    class Second(ManifoldMixupCallback):
        pass

    lit = Lit()
    criterion = lit.criterion
    with pytest.raises(RuntimeError, match=r"already has ManifoldMixup\(.* attached"):
        fit(lit, ManifoldMixupCallback(LAYERS), callbacks=[Second(LAYERS)])
    assert_untouched(lit, criterion)


# Data that is mixed already

MIX = v2.MixUp(num_classes=CLASSES)
CHOICE = v2.RandomChoice([v2.CutMix(num_classes=CLASSES), MIX])
FAST = FastCollateMixup(num_classes=CLASSES)


def by_global(batch):
    return CHOICE(*default_collate(batch))


def by_closure(mixer=MIX):
    return lambda batch: mixer(*default_collate(batch))


def by_argument(batch, mixer):
    return mixer(*default_collate(batch))


class Collator:
    def __init__(self):
        self.mixer = TimmMixup(num_classes=CLASSES)

    def collate(self, batch):
        return self.mixer(*default_collate(batch))


@pytest.mark.parametrize(
    ("collate", "name"),
    [
        (by_global, "CutMix"),
        (by_closure(), "MixUp"),
        (functools.partial(by_argument, mixer=MIX), "MixUp"),
        (FAST, "FastCollateMixup"),
        (Collator().collate, "Mixup"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_data_that_is_mixed_already(collate, name, several):
    data = loader(collate_fn=collate)
    lit = Lit()
    with pytest.raises(ValueError, match=rf"already mixed.*applies {name}\."):
        fit(lit, ManifoldMixupCallback(LAYERS), data={"a": data} if several else data)
    assert lit.losses == []


@pytest.mark.parametrize("collate", [default_collate, functools.partial(list), random.sample])
def test_data_that_is_not(collate):
    from manifold_mixup.integrations._loaders import refuse_mixed

    refuse_mixed(loader(collate_fn=collate))


# Two processes


@needs_gloo
@pytest.mark.slow
def test_two_processes_train_one_model_by_plans_of_their_own(tmp_path):
    done = subprocess.run(
        [sys.executable, worker.__file__, str(tmp_path), processes.free_port()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(rank["hooks"] == 0 for rank in ranks)
    assert all("wraps Lit and calls it around" in rank["refused"] for rank in ranks)
    # By hand: the gradient is the mean over the ranks.
    lit = worker.Lit()
    mixup = ManifoldMixup(lit.model, worker.LAYERS)
    criterion = mixup.wrap(lit.criterion)
    optimizer = lit.configure_optimizers()
    steps = list(zip(*(rank["steps"] for rank in ranks), strict=True))
    assert len(steps) == worker.EPOCHS * worker.ROWS // worker.BATCH // 2
    for of_ranks in steps:
        for (x, y), plan in of_ranks:
            with mixup.using(MixPlan(*plan)):
                (criterion(lit.model(x), y) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        lams = [plan[1] for _, plan in of_ranks]
        assert lams[0] != lams[1]
    for rank in ranks:
        torch.testing.assert_close(rank["weights"], lit.model.state_dict())


# The documentation


def test_the_recipes_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(block, names)
    assert names["callback"].state_dict()["step"] == names["trainer"].global_step > 0
