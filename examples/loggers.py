"""Log the mixed layer and λ of every step to Weights & Biases and MLflow, both offline.

    python examples/loggers.py FOLDER

It needs ``pip install wandb mlflow-skinny sqlalchemy alembic``. Besides the loss, each step logs
the index of the mixed layer and λ. They show that mixing happened, and explain jumps of the loss.
"""

import sys
from pathlib import Path

import mlflow
import torch
import wandb
from torch import nn

from manifold_mixup import ManifoldMixup


def as_metrics(mixup):
    """Return the plan of the latest training pass as numbers; empty if it was not mixed."""
    plan = mixup.plan
    if plan is None:
        return {}
    return {"mixup/layer": mixup.layers.index(plan.layer), "mixup/lam": plan.lam.mean().item()}


def train(folder, steps=20):
    """Train on random data, and log every step to both loggers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mixup = ManifoldMixup(model, layers=["input", "1"], alpha=2.0, p=0.8, seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")  # MLflow 3 needs a database
    with wandb.init(mode="offline", dir=folder, project="mixup") as run, mlflow.start_run():
        for step in range(steps):
            x, y = torch.randn(16, 8), torch.randint(3, (16,))
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            metrics = {"loss": loss.item(), **as_metrics(mixup)}
            run.log(metrics, step=step)
            mlflow.log_metrics(metrics, step=step)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
