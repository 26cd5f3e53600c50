"""A network that is trained an epoch at a time, and the data to show after an epoch."""

import math
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from manifold_mixup.lab import evaluate
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import features
from manifold_mixup.lab.evaluate.inference import in_eval_mode
from manifold_mixup.lab.evaluate.plane import Plane, hidden_plane, input_plane
from manifold_mixup.lab.evaluate.spectra import class_spectra, variance_within
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training.job import Job

BOTTLENECK = "bottleneck"
_SIDE = 64  # points per axis; few enough for several updates per second
_TURN = threading.Lock()
"""Held during an epoch: steps use torch's global generator, which several pages must not share."""


class Snapshot(NamedTuple):
    """The data to show of a network after an epoch.

    Attributes:
        loss: the training loss of the epoch, of mixed batches if it mixes; NaN before the first.
        error: the test error in percent.
        nll: the test NLL in nats.
        within: the share of the variance at the bottleneck that is within classes, in percent.
        inputs: the predictions over the plane of the points.
        hidden: the predictions over the states of the bottleneck.
        states: the states of the training points at the bottleneck, ``(n, 2)``.
    """

    loss: float
    error: float
    nll: float
    within: float
    inputs: Plane
    hidden: Plane
    states: Tensor


class Learner:
    """A network that is trained with the same steps as in `train`.

    Args:
        run: the recipe.
        data: the spirals.
    """

    def __init__(self, run: Recipe, data: Data) -> None:
        with _TURN:
            self.job = Job(run, data)
        self.run = run
        self.data = data
        self.epoch = 0
        self.loss = math.nan

    @property
    def finished(self) -> bool:
        """Whether all epochs of the recipe are done."""
        return self.epoch == self.run.epochs

    def learn(self) -> None:
        """Train for an epoch.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        job, sums = self.job, torch.zeros(2)
        job.model.train()
        self.epoch += 1
        first_step = (self.epoch - 1) * len(job.loader)
        with _TURN, torch.random.fork_rng():
            for k, (x, y) in enumerate(job.loader.epoch(self.epoch)):
                job.step(x, y, first_step + k, sums=sums)
        self.loss = job.mean(sums)
        if not math.isfinite(self.loss):
            raise FloatingPointError(
                f"{self.run.method}: the loss is {self.loss} in epoch {self.epoch}."
            )

    def snapshot(self) -> Snapshot:
        """Return the data to show of the network in its current state."""
        model, data = self.job.core, self.data
        states = features(model, data.x, layer=BOTTLENECK)
        with in_eval_mode(model):
            scores = evaluate.logits(model, data.x_test)
        return Snapshot(
            loss=self.loss,
            error=evaluate.error(scores, data.y_test),
            nll=evaluate.nll(scores, data.y_test),
            within=variance_within(states, class_spectra(states, data.y, centred=True))[0],
            inputs=input_plane(model, data.x, side=_SIDE),
            hidden=hidden_plane(model, data.x, BOTTLENECK, side=_SIDE),
            states=states,
        )
