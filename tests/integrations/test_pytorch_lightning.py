"""The callback in `pytorch_lightning`, the other package that Lightning is published as."""

import pytest
import torch
from torch import nn

from lightning_training import (
    BATCH,
    LAYERS,
    QUIET,
    ROWS,
    Lit,
    as_data,
    assert_untouched,
    by_hand,
    loader,
)
from manifold_mixup.integrations.lightning import ManifoldMixupCallback

pl = pytest.importorskip("pytorch_lightning")
pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning"),
]


class Module(pl.LightningModule):
    """The module of the other tests, with this package's base class."""

    def __init__(self):
        super().__init__()
        lit = Lit()
        self.model, self.criterion = lit.model, lit.criterion
        self.lr, self.plans, self.losses = 0.1, [], []

    def training_step(self, batch, _):
        loss = self.criterion(self.model(batch[0]), batch[1])
        self.plans.append(as_data(self.mixing.mixup.plan))
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def fit(module, mixing, *callbacks, ckpt_path=None, **options):
    module.mixing = mixing
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    trainer = pl.Trainer(**(settings | options), callbacks=[mixing, *callbacks])
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return trainer


def test_a_training_is_that_by_hand_and_resumes(tmp_path):
    module, mixing = Module(), ManifoldMixupCallback(LAYERS, seed=0)
    criterion = module.criterion
    trainer = fit(module, mixing, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    other = Module()
    fit(other, ManifoldMixupCallback(LAYERS, seed=9), ckpt_path=tmp_path / "saved.ckpt")
    losses, plans, state = by_hand()
    assert module.plans + other.plans == plans
    assert torch.equal(torch.stack(module.losses + other.losses), torch.stack(losses))
    torch.testing.assert_close(dict(other.model.state_dict()), dict(state), rtol=0, atol=0)
    assert_untouched(module, criterion)


def test_a_finder_is_mixed_and_does_not_advance_the_plans(tmp_path):
    finder = pl.callbacks.LearningRateFinder(num_training_steps=4, update_attr=False)
    module, mixing = Module(), ManifoldMixupCallback(LAYERS, seed=0)
    fit(module, mixing, finder, default_root_dir=tmp_path)
    plans = by_hand()[1]
    assert module.plans == [*plans[:4], *plans]


def test_the_epoch_of_averaging_that_collects_statistics_is_not_mixed():
    module, mixing = Module(), ManifoldMixupCallback(["stem"], seed=0)
    module.model = nn.Sequential()
    module.model.stem, module.model.rest = nn.BatchNorm1d(6), nn.Linear(6, 3)
    averaging = pl.callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    fit(module, mixing, averaging)
    batches = ROWS // BATCH
    assert None not in module.plans[: 2 * batches]
    assert module.plans[2 * batches :] == [None] * batches
