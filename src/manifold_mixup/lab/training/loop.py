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

_AGREE_EVERY = 20  # steps between agreements of several processes, each of which makes them wait


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
    with run_folder.locked(folder), torch.random.fork_rng():
        if folder is not None and (result := run_folder.claim(folder, run, data)) is not None:
            on_start(Start(run.epochs, 0, 0, finished=True))
            return result
        job = Job(run, data)
        checkpointer = Checkpointer(job, folder, every=save_every, stop=stop)
        state = checkpointer.resume()
        if state.tensors:
            on_start(Start(state.epoch, state.step, len(job.loader)))
        warm_up(job)
        if folder is not None:
            states_log.truncate(folder, epochs=len(state.curve))
        with Log(folder if job.main else None, state.curve) as log:
            for _ in range(state.epoch, run.epochs + 1):
                _train_epoch(job, state, checkpointer, on_step)
                log.add(state.curve[-1])
                if folder is not None and states and states.due(state.curve[-1].epoch, run.epochs):
                    measure(job, states, folder, state.curve[-1].epoch)
                checkpointer.save_if_due(state)
                on_epoch(state.curve[-1])
        return checkpointer.finish(state)


def _train_epoch(
    job: Job, state: State, checkpointer: "Checkpointer", on_step: Callable[[float], None]
) -> None:
    """Train the rest of an epoch, then evaluate it.

    Raises:
        FloatingPointError: a loss is no longer finite.
        Stopped: the run was asked to stop.
    """
    epoch, steps = state.epoch, len(job.loader)
    start = time.perf_counter() - state.seconds
    job.model.train()
    for x, y in job.loader.epoch(epoch, start_step=state.step):
        job.step(x, y, (epoch - 1) * steps + state.step, sums=state.sums)
        state.step += 1
        state.seconds = time.perf_counter() - start
        on_step(epoch - 1 + state.step / steps)
        checkpointer.save_if_due(state)
        start = time.perf_counter() - state.seconds
    train_loss = job.mean(state.sums)
    state.seconds = time.perf_counter() - start
    _require_finite(train_loss, job.run, epoch)
    job.close_epoch(state, train_loss)
    if job.is_watched(state.curve[-1].epoch):
        _require_finite_after(state.curve[-1], job.run)


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
        restored, rejected = None, list[str]()
        if self.folder is not None:
            with self.job.accelerator.main_process_first():  # it renames damaged files
                restored, rejected = checkpoint.load(self.folder, run=self.run)
        fallback = "resuming from the one before" if restored is not None else "starting over"
        for reason in rejected:
            warnings.warn(f"{reason}; {fallback}.", stacklevel=3)
        if restored is not None:
            self.job.restore(restored)
            return restored
        return State(sums=torch.zeros(2, device=self.job.device))

    def save_if_due(self, state: State) -> None:
        """Write a checkpoint if one is due or the run should stop.

        Raises:
            Stopped: the run should stop.
        """
        if self.job.accelerator.num_processes > 1 and state.step % _AGREE_EVERY:
            return
        due = time.perf_counter() - self.saved > self.every
        stop, due = self.job.agree(self.stop(), due)
        if self.folder is not None and (stop or due):
            self.job.save_state(state)
            if self.job.main:
                checkpoint.save(self.folder, state, run=self.run)
            self.saved = time.perf_counter()
        if stop:
            run = self.job.run
            raise Stopped(f"{run.method}, seed {run.seed} was stopped in epoch {state.epoch}.")

    def finish(self, state: State) -> Result:
        """Score the run, write its weights and result, and delete its checkpoints."""
        job = self.job
        final = job.weights()
        last, after_last = job.scores_and_outputs()
        _require_finite_scores(last, job.run)
        best, outputs = last, {"last": after_last}
        if state.best_epoch != job.run.epochs:  # else they are the same weights
            weights.load(job.average.model, state.tensors["best"])
            best, outputs["best"] = job.scores_and_outputs()
        result = Result(
            run=job.run,
            seconds=state.seconds,
            curve=tuple(state.curve),
            last=last,
            best=best,
            best_epoch=state.best_epoch,
            weights=weights.fingerprint(final),
            best_weights=weights.fingerprint(state.tensors["best"]),
        )
        if self.folder is not None and job.main:
            weights.write(self.folder / "last.safetensors", final)
            weights.write(self.folder / "best.safetensors", state.tensors["best"])
            kept_outputs.write(self.folder, outputs, job.data.y_test)
            run_folder.finish(self.folder, result)
            checkpoint.remove(self.folder)
        return result
