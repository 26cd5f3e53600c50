"""Train one run: a flat loop, read from top to bottom."""

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from manifold_mixup import ManifoldMixup
from manifold_mixup.lab import evaluate, models
from manifold_mixup.lab.data import Data, as_input
from manifold_mixup.lab.evaluate import Scores
from manifold_mixup.lab.recipes import Run


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch; ``train_loss`` is the loss that was minimised, mixed or not."""

    epoch: int
    train_loss: float
    test_error: float
    test_nll: float


@dataclass(frozen=True)
class Result:
    """What a run ended in.

    Attributes:
        run: its recipe.
        seconds: time spent training, evaluation left out.
        curve: one `Epoch` after another.
        last: scores after the last epoch.
        best: scores after ``best_epoch``.
        best_epoch: the epoch of the least *test* error: optimistic, for comparison with papers
            that report it.
        weights: SHA-256 of the final weights, equal if and only if they are equal bit for bit.
    """

    run: Run
    seconds: float
    curve: tuple[Epoch, ...]
    last: Scores
    best: Scores
    best_epoch: int
    weights: str


def train(run: Run, data: Data, *, on_epoch: Callable[[Epoch], None] = lambda _: None) -> Result:
    """Train a run and score it.

    The same run and data give the same weights, bit for bit on the CPU with one thread.

    Args:
        run: the recipe.
        data: what it trains and is scored on.
        on_epoch: called after every epoch; what it raises ends the training.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    model = fresh_model(run, data).to(run.device)
    criterion = mixing_criterion(model, run)
    x, y = data.x.to(run.device), data.y.to(run.device)
    x_test, y_test = data.x_test.to(run.device), data.y_test.to(run.device)
    order = torch.Generator().manual_seed(run.seed)
    optimizer = _optimizer(model, run)
    steps = run.epochs * math.ceil(len(x) / run.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))

    seconds, curve, best, best_epoch, best_model = 0.0, list[Epoch](), math.inf, 0, model
    for epoch in range(1, run.epochs + 1):
        start = time.perf_counter()
        model.train()
        total = torch.zeros((), device=run.device)
        for rows in torch.randperm(len(x), generator=order).to(run.device).split(run.batch):
            loss = criterion(model(as_input(x[rows])), y[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.detach() * len(rows)
        train_loss = total.item() / len(x)
        seconds += time.perf_counter() - start
        if not math.isfinite(train_loss):
            raise FloatingPointError(
                f"{run.method}, seed {run.seed}: the loss is {train_loss} in epoch {epoch}. "
                f"A learning rate below {run.lr:g} may help (--lr)."
            )

        model.eval()
        logits = evaluate.logits(model, x_test)
        test_error, test_nll = evaluate.error(logits, y_test), evaluate.nll(logits, y_test)
        curve.append(Epoch(epoch, train_loss, test_error, test_nll))
        if test_error < best:
            best, best_epoch, best_model = test_error, epoch, copy.deepcopy(model)
        on_epoch(curve[-1])

    score = partial(evaluate.scores, x=x_test, y=y_test, eps=data.eps, bounds=data.bounds)
    return Result(
        run=run,
        seconds=seconds,
        curve=tuple(curve),
        last=score(model),
        best=score(best_model),
        best_epoch=best_epoch,
        weights=_fingerprint(model),
    )


def fresh_model(run: Run, data: Data) -> nn.Module:
    """Build the model of a run, its initial weights drawn by the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return models.build(run.model, data, width=run.width)


def mixing_criterion(model: nn.Module, run: Run) -> nn.Module:
    """Attach the run's mixing to its model; return the loss that belongs to it."""
    criterion = nn.CrossEntropyLoss()
    if not run.layers:
        return criterion
    return ManifoldMixup(model, run.layers, alpha=run.alpha, seed=run.seed).wrap(criterion)


def _optimizer(model: nn.Module, run: Run) -> torch.optim.Optimizer:
    if run.optimizer == "sgd":
        nesterov = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
        return nesterov(model.parameters(), run.lr, weight_decay=run.weight_decay, fused=True)
    return torch.optim.AdamW(model.parameters(), run.lr, weight_decay=run.weight_decay, fused=True)


def _rate(progress: float) -> float:
    """Return the share of the greatest learning rate: up in a straight line, down in a cosine."""
    warm = 0.1
    if progress < warm:
        return progress / warm
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warm) / (1 - warm))


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
