"""What two processes train, set up as torchrun does, for tests/integrations/test_lightning.py."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import two_ranks
from manifold_mixup.integrations.lightning import ManifoldMixupCallback

LAYERS = ["0", "2"]
ROWS, BATCH, EPOCHS = 32, 4, 2


class Lit(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
        ).double()
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        x, y = batch
        return self.criterion(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Steps(Callback):
    """Records the batch and the plan of every step."""

    def __init__(self, mixing: ManifoldMixupCallback) -> None:
        self.mixing = mixing
        self.seen = []

    def on_train_batch_end(self, trainer, lit, outputs, batch, batch_idx) -> None:
        plan = self.mixing.mixup.plan
        self.seen.append((batch, (plan.layer, plan.lam, plan.perm)))


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(3, (ROWS,), generator=generator))


def fit(module: str | None) -> Trainer:
    lit, mixing = Lit(), ManifoldMixupCallback(LAYERS, module=module, seed=0)
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[mixing, Steps(mixing)],
    )
    trainer.fit(lit, DataLoader(dataset(), BATCH))
    return trainer


def main(folder: Path) -> None:
    refused = ""
    try:
        fit(module=None)
    except ValueError as error:
        refused = str(error)
    trainer = fit(module="model")
    lit = trainer.lightning_module
    result = {
        "refused": refused,
        "steps": trainer.callbacks[1].seen,
        "weights": lit.model.state_dict(),
        "hooks": sum(len(part._forward_hooks) for part in lit.modules()),
    }
    torch.save(result, folder / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    two_ranks.run(main)
