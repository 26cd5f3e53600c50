"""The parts of a training, built from a recipe, and their state as tensors."""

import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor, nn

from manifold_mixup.lab import evaluate
from manifold_mixup.lab.data import Data, as_input, hold_out
from manifold_mixup.lab.data.augment import Augment
from manifold_mixup.lab.data.label_noise import with_label_noise
from manifold_mixup.lab.data.loader import Loader, parts
from manifold_mixup.lab.evaluate import Scores
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import weights
from manifold_mixup.lab.runs.checkpoint import State
from manifold_mixup.lab.runs.result import Epoch
from manifold_mixup.lab.seeds import seeded
from manifold_mixup.lab.training import malloc, optimizers
from manifold_mixup.lab.training.adversarial import attack_of, attacked
from manifold_mixup.lab.training.consistency import Unlabelled, consistency, ramp, teach
from manifold_mixup.lab.training.ema import Average
from manifold_mixup.lab.training.method import Method

_AUTOCAST = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


class Job:
    """Everything that a training step needs.

    Args:
        run: the recipe.
        data: the data to train and score on.
    """

    def __init__(self, run: Recipe, data: Data) -> None:
        self.run = run
        self.data = data
        self.accelerator = _accelerator(run)
        self.device = self.accelerator.device
        if self.device.type == "cpu":
            malloc.keep_freed()
        self.rank = self.accelerator.process_index
        noisy = with_label_noise(data, run.label_noise, seed=run.seed)
        share = run.validation
        split = noisy if share == 0 else hold_out(noisy, share=share, seed=run.seed)
        self.watched = split.x_test.to(self.device), split.y_test.to(self.device)
        self.loader = self._load(split)
        # On the device, like the batches.
        self.trained = replace(split, x=self.loader.x, y=self.loader.y)
        self.unlabelled = self._unlabelled(split)
        self.attack = attack_of(run, data)
        self.core = fresh_model(run, data)  # without the wrapper that trains it
        self.model, self.optimizer, self.average, self.method = self._prepare()
        self.clear_gradients()

    def _load(self, data: Data) -> Loader:
        """Return the loader of this process's batches."""
        run = self.run
        return Loader(
            data.x,
            data.y,
            run.batch,
            augment=Augment(flip=run.flip, crop=run.crop, cutout=run.cutout),
            seed=run.seed,
            device=self.device,
            rank=self.rank,
            world=self.accelerator.num_processes,
            channels_last=run.channels_last,
        )

    def _unlabelled(self, data: Data) -> Unlabelled | None:
        """Return the examples without labels, if the recipe learns from them."""
        if data.unlabelled is None or not self.run.ict_weight:
            return None
        return Unlabelled(
            data.unlabelled.to(self.device),
            self.loader.augment,
            seed=self.run.seed,
            rank=self.rank,
            channels_last=self.run.channels_last,
        )

    def _prepare(self) -> tuple[nn.Module, torch.optim.Optimizer, Average, Method]:
        """Return the wrapped model, its optimizer, its average, and its mixing."""
        run, example_inputs = self.run, as_input(self.data.x[:2])
        # A sharded model cannot be inspected, so its layers are checked before.
        sharded = None
        if self.accelerator.is_fsdp2:
            sharded = Method(self.core, run, data=self.trained, example=example_inputs)
        model, prepared = self.accelerator.prepare(self.core, optimizers.build(self.core, run))
        # The wrapped optimizer is needed only with a gradient scaler, and its step is slow: it
        # searches for an installed package each time.
        scaled = self.accelerator.scaler is not None
        optimizer: torch.optim.Optimizer = prepared if scaled else prepared.optimizer
        # Copied here, before the mixing hooks are attached.
        average = Average(self.core, run.ema, warm_up=bool(run.ict_weight))
        # Checking a compiled model's layers now avoids recompilation of its graphs later.
        example = example_inputs.to(self.device) if run.compile else None
        method = sharded or Method(model, run, data=self.trained, example=example)
        return model, optimizer, average, method

    @property
    def steps(self) -> int:
        """The number of steps of the whole training."""
        return self.run.epochs * len(self.loader)

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return bool(self.rank == 0)

    def draw_by(self, step: int) -> None:
        """Seed torch for a step, so that dropout and noise depend on seed, rank and step only."""
        seed = seeded("step", self.run.seed, self.rank, step)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def step(self, x: Tensor, y: Tensor, step: int, *, sums: Tensor) -> None:
        """Take an optimisation step on a batch.

        Args:
            x: inputs.
            y: labels.
            step: the number of steps before this one, in all epochs.
            sums: ``(2,)``; the sum of the losses and the number of examples are added to it.
        """
        self.draw_by(step)
        optimizers.set_rate(self.optimizer, self.run, progress=step / self.steps)
        for k, (part, labels) in enumerate(parts(x, y, self.run.accumulate)):
            loss = self._loss(part, labels, step, k)
            self.accelerator.backward(loss * (len(labels) / len(y)))
            sums[0] += loss.detach() * len(labels)
        sums[1] += len(y)
        self.optimizer.step()
        self.clear_gradients()
        self.average.update(step)

    def _loss(self, x: Tensor, y: Tensor, step: int, part: int) -> Tensor:
        """Return the loss of a part of a batch."""
        if self.unlabelled is None or self.method.mixup is None:
            return self.method.loss(self.model, self._attacked(x, y), y)
        with self.method.mixup.paused():
            supervised = self.method.loss(self.model, x, y)
        weight = self.run.ict_weight * ramp(step / self.steps, self.run.ict_ramp)
        teacher = partial(teach, self.average.model)
        unlabelled_batch = self.unlabelled.batch(len(x), step, part)
        return supervised + weight * consistency(
            self.model, self.method.mixup, teacher, unlabelled_batch
        )

    def _attacked(self, x: Tensor, y: Tensor) -> Tensor:
        """Return a batch under the attack of the recipe, or the batch itself."""
        if self.attack is None:
            return x
        mixup = self.method.mixup
        # Without the wrapper, as no gradient of a parameter is shared between processes.
        with nullcontext() if mixup is None else mixup.paused():
            return attacked(self.core, x, y, self.attack, bounds=self.data.bounds)

    def clear_gradients(self) -> None:
        """Clear the gradients of a step.

        If gradients are blocked, they become 0 instead of ``None``. A parameter without a gradient
        then still moves by momentum and weight decay, as in the authors' code. Also, PyTorch's
        fused SGD (2.14) fails if a parameter gets its first gradient later than others.
        """
        if not self.run.block_gradient:
            self.optimizer.zero_grad()
            return
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def mean(self, sums: Tensor) -> float:
        """Return the mean loss over all processes, given their sums."""
        total, count = self.accelerator.reduce(sums).tolist()
        return float(total / count)

    def agree(self, *wishes: bool) -> list[bool]:
        """Return for each wish whether any process has it; all must call this at the same step.

        Collective operations, such as gathering sharded weights, must start in all processes.
        """
        if self.accelerator.num_processes == 1:
            return list(wishes)
        counts = self.accelerator.reduce(torch.tensor(wishes, device=self.device).float())
        return [bool(count) for count in counts.tolist()]

    def close_epoch(self, state: State, train_loss: float) -> None:
        """Evaluate an epoch, add it to the curve, and keep the weights if they are the best."""
        if not self.is_watched(state.epoch):
            self._add_unevaluated(state, train_loss)
            return
        x, y = self.watched
        outputs = evaluate.logits(self.average.model.eval(), x)
        if self.run.regression:
            metrics = [evaluate.rmse(outputs, y), evaluate.mse(outputs, y)]
        else:
            metrics = [evaluate.error(outputs, y), evaluate.nll(outputs, y)]
        # The batch norms of the processes differ, so the first process's metrics count.
        error, nll = broadcast_object_list(metrics)
        previous_errors = (epoch.error for epoch in state.curve if not math.isnan(epoch.error))
        if error < min(previous_errors, default=math.inf):
            state.best_epoch, state.tensors["best"] = state.epoch, self.weights()
        self._start_next_epoch(state, Epoch(state.epoch, train_loss, error, nll))

    def is_watched(self, epoch: int) -> bool:
        """Return whether the weights after an epoch are evaluated."""
        every = self.run.every
        return every > 0 and (epoch % every == 0 or epoch == self.run.epochs)

    def _add_unevaluated(self, state: State, train_loss: float) -> None:
        """Add an epoch that is not evaluated; without any evaluation, the last is the best."""
        if state.epoch == self.run.epochs:
            state.best_epoch, state.tensors["best"] = state.epoch, self.weights()
        self._start_next_epoch(state, Epoch(state.epoch, train_loss, math.nan, math.nan))

    def _start_next_epoch(self, state: State, epoch: Epoch) -> None:
        state.curve.append(epoch)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, torch.zeros_like(state.sums)

    def scores(self) -> Scores:
        """Return the scores on the test set."""
        return self.scores_and_outputs()[0]

    def scores_and_outputs(self) -> tuple[Scores, Tensor]:
        """Return the scores on the test set, and the raw outputs that they are of."""
        x, y = (part.to(self.device) for part in (self.data.x_test, self.data.y_test))
        model, data = self.average.model.eval(), self.data
        if self.run.regression:
            return evaluate.number_scores_and_outputs(model, x, y)
        return evaluate.scores_and_outputs(model, x, y, eps=data.eps, bounds=data.bounds)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights that are evaluated."""
        return weights.state_of(self.average.model)

    def save_state(self, state: State) -> None:
        """Store the state of all parts in ``state``."""
        state.method = self.method.state_dict()
        state.scaler = (
            {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        )
        state.tensors["sums"] = self.accelerator.gather(state.sums[None]).cpu()
        state.tensors["model"] = weights.state_of(self.core)
        state.tensors["optimizer"] = weights.optimizer_state(self.optimizer)
        if self.run.ema:
            state.tensors["average"] = self.weights()

    def restore(self, state: State) -> None:
        """Restore the state that `save_state` stored."""
        state.sums = state.tensors["sums"][self.rank].to(self.device)
        self.method.load_state_dict(state.method)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        weights.load(self.core, state.tensors["model"])
        weights.load_optimizer_state(self.optimizer, state.tensors.get("optimizer", {}))
        if self.run.ema:
            self.average.load(state.tensors["average"])


def _accelerator(run: Recipe) -> Accelerator:
    # Otherwise the device and precision of an earlier run in this process would be used.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(cpu=run.device == "cpu", mixed_precision=_AUTOCAST[run.precision])
    _require_supported(accelerator, run)
    return accelerator


def _require_supported(accelerator: Accelerator, run: Recipe) -> None:
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(f"{kind.value} is not supported. Use DDP or FSDP2.")
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError(
            "FSDP1 is not supported: a run cannot be restored from its flat weights. Use FSDP2 "
            "(accelerate launch --use_fsdp --fsdp_version 2)."
        )
    if accelerator.is_fsdp2 and run.ema:
        raise ValueError(
            f"ema is {run.ema:g}, but sharded weights cannot be averaged. Leave it at 0, or start "
            f"without --use_fsdp, so that every process has the whole model."
        )
