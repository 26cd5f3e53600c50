"""The training loop of a run: epochs, steps, stopping, resuming and saving."""

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import Scores
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import checkpoint, states_log, weights
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs import outputs as kept_outputs
from manifold_mixup.lab.runs.checkpoint import State
from manifold_mixup.lab.runs.metrics_log import Log
from manifold_mixup.lab.runs.result import Epoch, Result, Start
from manifold_mixup.lab.training.job import Job
from manifold_mixup.lab.training.states import States, measure
from manifold_mixup.lab.training.warm_up import warm_up

_ASK = 20  # steps between agreements of several processes, each of which makes them wait


class Stopped(InterruptedError):
    """A run was stopped on request; with a folder, it can be resumed."""


def train(
    run: Recipe,
    data: Data,
    *,
    folder: Path | None = None,
    save_every: float = 60.0,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    on_step: Callable[[float], None] = lambda _: None,
    on_start: Callable[[Start], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    states: States | None = None,
) -> Result:
    """Train a run and score it.

    The same run and data give the same weights, however often the training was stopped or killed
    and resumed. On the CPU with one thread, they are bit-identical.

    Args:
        run: the recipe.
        data: the data to train and score on.
        folder: the run's folder. An unfinished run in it is resumed; a finished run returns its
            result.
        save_every: seconds between checkpoints.
        on_epoch: called after every epoch; an exception in it ends the training.
        on_step: called after every step with the number of epochs so far, a fraction.
        on_start: called before the first step if the run is resumed or already finished.
        stop: called after every step; if it returns True, the run is saved and `Stopped` raised.
        states: when the hidden states are measured for the report; needs a folder. It does not
            change the training.

    Raises:
        FloatingPointError: the loss, in training or after an epoch, is no longer finite.
        Stopped: ``stop`` returned True.
        ValueError: the folder has another run; the message has the differences.
        OSError: the folder cannot be written, or another process is training in it.
    """
    # Steps use torch's global generators; the fork restores them after the training.
    with run_folder.alone(folder), torch.random.fork_rng():
        if folder is not None and (result := run_folder.claim(folder, run, data)) is not None:
            on_start(Start(run.epochs, 0, 0, finished=True))
            return result
        job = Job(run, data)
        checkpointer = Checkpointer(job, folder, every=save_every, stop=stop)
        at = checkpointer.resume()
        if at.tensors:
            on_start(Start(at.epoch, at.step, len(job.loader)))
        warm_up(job)
        if folder is not None:
            states_log.keep(folder, epochs=len(at.curve))
        with Log(folder if job.main else None, at.curve) as log:
            for _ in range(at.epoch, run.epochs + 1):
                _train_epoch(job, at, checkpointer, on_step)
                log.add(at.curve[-1])
                if folder is not None and states and states.due(at.curve[-1].epoch, run.epochs):
                    measure(job, states, folder, at.curve[-1].epoch)
                checkpointer.save_if_due(at)
                on_epoch(at.curve[-1])
        return checkpointer.finish(at)


def _train_epoch(
    job: Job, at: State, checkpointer: "Checkpointer", on_step: Callable[[float], None]
) -> None:
    """Train the rest of an epoch, then evaluate it.

    Raises:
        FloatingPointError: a loss is no longer finite.
        Stopped: the run was asked to stop.
    """
    epoch, steps = at.epoch, len(job.loader)
    began = time.perf_counter() - at.seconds
    job.model.train()
    for x, y in job.loader.epoch(epoch, start_step=at.step):
        job.step(x, y, (epoch - 1) * steps + at.step, sums=at.sums)
        at.step += 1
        at.seconds = time.perf_counter() - began
        on_step(epoch - 1 + at.step / steps)
        checkpointer.save_if_due(at)
        began = time.perf_counter() - at.seconds
    train_loss = job.mean(at.sums)
    at.seconds = time.perf_counter() - began
    _require_finite(train_loss, job.run, epoch)
    job.close_epoch(at, train_loss)
    if job.is_watched(at.curve[-1].epoch):
        _require_finite_after(at.curve[-1], job.run)


def _require_finite(train_loss: float, run: Recipe, epoch: int) -> None:
    if not math.isfinite(train_loss):
        raise FloatingPointError(
            f"{run.method}, seed {run.seed}: the loss is {train_loss} in epoch {epoch}. "
            f"A learning rate below {run.lr:g} may help (--lr)."
        )


def _require_finite_after(epoch: Epoch, run: Recipe) -> None:
    """Raise if the last steps of an epoch diverged, which its training loss does not show."""
    if not math.isfinite(epoch.nll):
        raise FloatingPointError(
            f"{run.method}, seed {run.seed}: the loss on unseen examples is {epoch.nll} after "
            f"epoch {epoch.epoch}, although the training loss was finite: the last steps diverged. "
            f"A learning rate below {run.lr:g} may help (--lr)."
        )


def _require_finite_scores(scores: Scores, run: Recipe) -> None:
    """Raise if the final weights diverged, which no epoch showed because none was evaluated."""
    if run.every == 0 and not math.isfinite(scores.rmse if run.regression else scores.nll):
        raise FloatingPointError(
            f"{run.method}, seed {run.seed}: the loss of the final weights on unseen examples is "
            f"not finite. A learning rate below {run.lr:g} may help (--lr)."
        )


class Checkpointer:
    """Saves a run in its folder during training; without a folder, it saves nothing."""

    def __init__(
        self, job: Job, folder: Path | None, *, every: float, stop: Callable[[], bool]
    ) -> None:
        self.job = job
        self.folder = folder
        self.every = every
        self.stop = stop
        self.run = run_folder.fingerprint(job.run, job.data) if folder is not None else ""
        self.saved = time.perf_counter()

    def resume(self) -> State:
        """Return the state to start from, that of the last valid checkpoint if there is one."""
        found, refused = None, list[str]()
        if self.folder is not None:
            with self.job.accelerator.main_process_first():  # it renames damaged files
                found, refused = checkpoint.load(self.folder, run=self.run)
        fallback = "resuming from the one before" if found is not None else "starting over"
        for reason in refused:
            warnings.warn(f"{reason}; {fallback}.", stacklevel=3)
        if found is not None:
            self.job.restore(found)
            return found
        return State(sums=torch.zeros(2, device=self.job.device))

    def save_if_due(self, at: State) -> None:
        """Write a checkpoint if one is due or the run should stop.

        Raises:
            Stopped: the run should stop.
        """
        if self.job.accelerator.num_processes > 1 and at.step % _ASK:
            return
        due = time.perf_counter() - self.saved > self.every
        stop, due = self.job.agree(self.stop(), due)
        if self.folder is not None and (stop or due):
            self.job.save_state(at)
            if self.job.main:
                checkpoint.save(self.folder, at, run=self.run)
            self.saved = time.perf_counter()
        if stop:
            run = self.job.run
            raise Stopped(f"{run.method}, seed {run.seed} was stopped in epoch {at.epoch}.")

    def finish(self, at: State) -> Result:
        """Score the run, write its weights and result, and delete its checkpoints."""
        job = self.job
        final = job.weights()
        last, after_last = job.scores_and_outputs()
        _require_finite_scores(last, job.run)
        best, outputs = last, {"last": after_last}
        if at.best_epoch != job.run.epochs:  # else they are the same weights
            weights.put(job.average.model, at.tensors["best"])
            best, outputs["best"] = job.scores_and_outputs()
        result = Result(
            run=job.run,
            seconds=at.seconds,
            curve=tuple(at.curve),
            last=last,
            best=best,
            best_epoch=at.best_epoch,
            weights=weights.fingerprint(final),
            best_weights=weights.fingerprint(at.tensors["best"]),
        )
        if self.folder is not None and job.main:
            weights.write(self.folder / "last.safetensors", final)
            weights.write(self.folder / "best.safetensors", at.tensors["best"])
            kept_outputs.write(self.folder, outputs, job.data.y_test)
            run_folder.finish(self.folder, result)
            checkpoint.remove(self.folder)
        return result
