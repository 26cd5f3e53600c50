"""A module, its data, its training by Lightning's Trainer, and the same training by hand."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from manifold_mixup import ManifoldMixup

QUIET = [
    # Lightning's advice on small loaders, loops and logs.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    # Lightning 2.6 uses an old name of PyTorch 2.14.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    # The compiler reads `.grad` of every tensor, which warns; here, warnings are errors.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

ROWS, BATCH, FEATURES, CLASSES = 24, 8, 6, 3
LAYERS = ["stem", "body"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(FEATURES, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.body(torch.tanh(self.stem(x)))))


class Lit(LightningModule):
    """A typical LightningModule."""

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
    """Records the plan of every step."""

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
    """Train with a plain loop; return the losses, the plans and the model's state."""
    lit = Lit()
    mixup = ManifoldMixup(lit.model, LAYERS, **({"seed": 0} | options))
    criterion = mixup.wrap(lit.criterion)
    optimizer = lit.configure_optimizers()
    losses, plans = [], []
    batches = [numbered for _ in range(epochs) for numbered in enumerate(loader(), 1)]
    for number, (x, y) in batches:
        if mixup.needs_targets:
            mixup.batch(y)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            loss = criterion(lit.model(x), y)
        (loss / accumulate).backward()
        losses.append(loss.detach())
        plans.append(as_data(mixup.plan))
        if number % accumulate == 0 or number == ROWS // BATCH:
            optimizer.step()
            optimizer.zero_grad()
    return losses, plans, lit.model.state_dict()


def assert_same(lit, plans, expected, *, to_the_bit=True):
    """Compare a training with one by hand.

    Two calls of a loss that are written in another way may round in another.
    """
    losses, expected_plans, state = expected
    assert plans == expected_plans
    within = {"rtol": 0, "atol": 0} if to_the_bit else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.stack(lit.losses), torch.stack(losses), **within)
    torch.testing.assert_close(dict(lit.model.state_dict()), dict(state), **within)


def assert_untouched(lit, criterion):
    assert lit.criterion is criterion
    assert "criterion" not in vars(lit) or not isinstance(criterion, nn.Module)
    for module in lit.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Saves(Callback):
    """Writes a checkpoint after a step, like ModelCheckpoint."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
