"""Manifold Mixup in the Trainer of Hugging Face Transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Trainer, TrainerCallback

from manifold_mixup import ManifoldMixup, MixedTarget


def add_to_trainer(trainer: Trainer, mixup: ManifoldMixup) -> None:
    """Have a Trainer compute its loss with ``mixup``, log it, and save its stream of plans.

    A ``compute_loss_func`` that the Trainer already has is called with mixed targets. Otherwise the
    loss is the one that the model's ``config.problem_type`` stands for, with the Trainer's label
    smoothing. Beside it are logged ``mixup_lam``, ``mixup_layer`` (its place in ``mixup.layers``,
    -1 for a batch that was not mixed) and, of classes, ``mixup_accuracy`` on the mixed targets. A
    training that resumes from a checkpoint draws the plans that an uninterrupted one would have.

    Args:
        trainer: a Trainer before ``train()``.
        mixup: attached to the Trainer's model.

    Raises:
        RuntimeError: the Trainer mixes already.
        TypeError: the Trainer has no ``compute_loss_func``, and its model is made for something
            else than classification or regression.
    """
    given, model = trainer.compute_loss_func, trainer.model
    if isinstance(getattr(given, "__self__", None), _Mixing):
        raise RuntimeError("this Trainer mixes already; twice it would mix its targets twice.")
    task = getattr(model, "loss_type", None) or "Classification"
    generates = getattr(model, "can_generate", bool)()
    if given is None and (generates or not task.endswith("Classification")):
        raise TypeError(
            f"the losses of classification and regression are known here, but not that of "
            f"{type(model).__name__}. Give the Trainer a compute_loss_func. A language model that "
            f"reads its own targets cannot be mixed at all."
        )
    mixing = _Mixing(trainer, mixup)
    trainer.compute_loss_func = mixing.loss
    trainer.add_callback(mixing)


class _Mixing(TrainerCallback):  # type: ignore[misc] # of a type that is not read
    """The loss of a Trainer that mixes, and what to do when it logs, saves or resumes."""

    def __init__(self, trainer: Trainer, mixup: ManifoldMixup) -> None:
        self.trainer, self.mixup = trainer, mixup
        self.given = trainer.compute_loss_func
        self.criterion = mixup.wrap(self.given or self._plain_loss)
        self.accuracy: Any = 0.0  # summed over the batches since the latest log
        self.batches = 0

    def loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a batch, as the Trainer wants it from its ``compute_loss_func``."""
        if labels is None or not (self.given or isinstance(labels, Tensor)):
            raise TypeError(
                f"the Trainer hands on the tensor that a batch has under 'labels', if the model's "
                f"forward has an argument of that name, but here is a {type(labels).__name__}. "
                f"Name the targets so, or say remove_unused_columns=False for a model of your own, "
                f"and take out a data collator that mixes."
            )
        if self.given:
            return self.criterion(outputs, labels, num_items_in_batch=num_items_in_batch)
        logits, kind = _logits(outputs), self._kind()
        targets = _targets(labels, logits, kind)
        if kind == _CLASSES and torch.is_grad_enabled():
            mixed = MixedTarget(targets, self.mixup.plan)
            self.accuracy += mixed.accuracy(logits.detach().movedim(-1, 1))
            self.batches += 1
        return self.criterion(logits, targets, num_items_in_batch=num_items_in_batch)

    def _plain_loss(
        self, logits: Tensor, targets: Tensor, *, num_items_in_batch: Any, reduction: str = "mean"
    ) -> Tensor:
        """Return a batch's share of the mean over all items of the step, as if nothing was mixed.

        The step has several batches with gradient accumulation, and on several devices.
        """
        options: dict[str, Any] = {"reduction": "none"}
        if self._kind() == _CLASSES:
            logits = logits.movedim(-1, 1)
            options["label_smoothing"] = self.trainer.args.label_smoothing_factor
        losses: Tensor = _LOSSES[self._kind()](logits.float(), targets, **options)
        return losses if reduction == "none" else losses.sum() / num_items_in_batch

    def _kind(self) -> str:
        config: Any = getattr(self.trainer.model, "config", None)
        kind: str | None = getattr(config, "problem_type", None)
        if kind is None and getattr(config, "num_labels", None) == 1:
            # The model would note it too, if it were to compute the loss. Pipelines look there.
            kind = config.problem_type = "regression"
        return kind or _CLASSES

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on with the plans of the checkpoint, if the Trainer resumes from one."""
        self.accuracy, self.batches = 0.0, 0
        if _STATE in state.stateful_callbacks:
            self.mixup.load_state_dict(state.stateful_callbacks[_STATE])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the stream of plans in the Trainer's state, which every checkpoint holds."""
        state.stateful_callbacks[_STATE] = self.mixup.state_dict()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log what was mixed, whenever the training loss is logged."""
        if "loss" not in logs:
            return
        plan = self.mixup.plan
        mixed = {
            "mixup_lam": 1.0 if plan is None else plan.lam.mean().item(),
            "mixup_layer": -1 if plan is None else self.mixup.layers.index(plan.layer),
        }
        if self.batches:
            mean = self.trainer.accelerator.reduce(self.accuracy / self.batches, "mean")
            mixed["mixup_accuracy"] = mean.item()
            self.accuracy, self.batches = 0.0, 0
        self.trainer.log(mixed)


def _targets(labels: Tensor, logits: Tensor, kind: str) -> Tensor:
    """Return labels in the shape that the loss asks for; what is a number as such, for it mixes."""
    if kind == _CLASSES and labels.is_floating_point():
        raise ValueError(
            f"the labels are floating point, of shape {tuple(labels.shape)}. For several labels an "
            f"example say model.config.problem_type = 'multi_label_classification'. A data "
            f"collator that mixes has to go. For soft labels give the Trainer a compute_loss_func."
        )
    shape = logits.shape[:-1] if kind == _CLASSES else logits.shape
    if labels.numel() != shape.numel():
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not fit logits of shape "
            f"{tuple(logits.shape)} in {kind}. See to num_labels and problem_type of the model's "
            f"config, or give the Trainer a compute_loss_func."
        )
    return labels.view(shape) if kind == _CLASSES else labels.view(shape).float()


def _logits(outputs: Any) -> Tensor:
    """Return the logits, ``(batch, *positions, labels)``."""
    logits = outputs.get("logits") if isinstance(outputs, dict) else outputs[0]
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model returned no logits, but {list(outputs)}. Take a model with a head for its "
            f"task, or give the Trainer a compute_loss_func."
        )
    return logits


_CLASSES = "single_label_classification"
_LOSSES: dict[str, Callable[..., Tensor]] = {
    _CLASSES: functional.cross_entropy,
    "regression": functional.mse_loss,
    "multi_label_classification": functional.binary_cross_entropy_with_logits,
}
_STATE = "manifold_mixup"
