"""The plain loop of the examples. It knows nothing of mixing: only the criterion does."""

import math

import torch
from torch import nn


def fit(model, criterion, data, *, lr, epochs, batch):
    """Train by AdamW, the learning rate rising to ``lr`` and falling to zero.

    Args:
        model: called with all tensors of ``data`` but the last.
        criterion: the loss, wrapped if the model is mixed.
        data: a `TensorDataset` whose last tensor holds the targets.
        lr: the greatest learning rate.
        epochs: passes over ``data``.
        batch: examples in a step.
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
    """Return what a trained model says to all of ``data``, and the targets."""
    *x, y = data.tensors
    with torch.no_grad():
        return model.eval()(*x), y


def classification(output, y):
    """Return the error and the negative log-likelihood of logits."""
    wrong = (output.argmax(1) != y).double().mean().item()
    return {"error % ↓": 100 * wrong, "NLL ↓": nn.functional.cross_entropy(output, y).item()}
