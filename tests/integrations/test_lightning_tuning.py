"""Lightning's finders and averages of weights, around a training that mixes."""

import copy
import weakref

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from lightning_training import (
    BATCH,
    LAYERS,
    QUIET,
    ROWS,
    Lit,
    Saves,
    as_data,
    assert_untouched,
    by_hand,
    dataset,
    fit,
    loader,
)
from manifold_mixup import ManifoldMixup
from manifold_mixup.integrations.lightning import ManifoldMixupCallback

pytestmark = QUIET


class Tuned(Lit):
    """A LightningModule for Lightning's tuners, which records its plans and losses."""

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
            raise RuntimeError("CUDA out of memory.")  # as if in backward
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
    """Return the losses and plans of steps, each with its own learning rate and batch size."""
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
        if rate is not None:  # None marks a failed step
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    return losses, plans


def assert_fits_as_if_nothing_had_been_tried(lit, mixing):
    """Assert that weights, optimizer and stream of plans are restored."""
    steps = 2 * ROWS // lit.batch_size
    losses, plans = steps_by_hand([lit.lr] * steps, [lit.batch_size] * steps)
    assert lit.plans == plans
    assert torch.equal(torch.stack(lit.losses), torch.stack(losses))
    assert mixing.state_dict() == {"seed": 0, "step": len(plans), "stream": 2}


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


@pytest.mark.parametrize("way", ["tuner", "callback"])
def test_a_batch_size_is_found_for_mixed_training(way, tmp_path):
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
    # Even without the callback, Lightning's finder resets the counters of epochs and steps.
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
    """Lightning's finder does not restore the callbacks, so they are not notified of its end."""
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
    assert len(plans) == 4 * batches  # including the epoch for the statistics
    assert None not in plans[: 3 * batches]
    assert plans[3 * batches :] == [None] * batches
    assert mixing.state_dict()["step"] == 3 * batches
    # Compare averaged weights, since Lightning's last step changes the module even without mixing.
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
