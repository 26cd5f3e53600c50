"""The plain training loop of the examples; only the criterion depends on mixing."""

import math

import torch
from torch import nn


def fit(model, criterion, data, *, lr, epochs, batch):
    """Train with AdamW and a one-cycle learning rate.

    Args:
        model: called with all tensors of ``data`` except the last.
        criterion: the loss, wrapped if the model is mixed.
        data: a `TensorDataset` whose last tensor contains the targets.
        lr: peak learning rate.
        epochs: passes over ``data``.
        batch: batch size.
    """
    steps = epochs * math.ceil(len(data) / batch)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(data)).split(batch):
            *x, y = data[rows]
            loss = criterion(model(*x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def predict(model, data):
    """Return the outputs of a trained model for all of ``data``, and the targets."""
    *x, y = data.tensors
    with torch.no_grad():
        return model.eval()(*x), y


def classification(output, y):
    """Return the error and the negative log-likelihood of logits."""
    wrong = (output.argmax(1) != y).double().mean().item()
    return {"error % ↓": 100 * wrong, "NLL ↓": nn.functional.cross_entropy(output, y).item()}
