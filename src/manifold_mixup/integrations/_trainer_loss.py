"""Reimplement the loss that models of Transformers compute internally."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import Trainer

from manifold_mixup.integrations._next_tokens import (
    next_tokens,
    predicts_next_tokens,
    without_adapters,
)

_CLASSES = "single_label_classification"
_LOSSES: dict[str, Callable[..., Tensor]] = {
    _CLASSES: functional.cross_entropy,
    "regression": functional.mse_loss,
    "multi_label_classification": functional.binary_cross_entropy_with_logits,
}


class ModelLoss:
    """The loss of a Trainer's model: of next tokens, or as ``config.problem_type`` selects."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.shifts = predicts_next_tokens(without_adapters(trainer.model))
        self.kind = _CLASSES  # problem type at the latest batch

    @property
    def is_of_classes(self) -> bool:
        """Whether every example, or position, has one class of several."""
        return self.kind == _CLASSES

    def targets(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return labels in the shape that the loss needs; regression targets as floats."""
        if self.shifts:
            return next_tokens(labels, logits)
        self.kind = _kind(self.trainer.model)  # once per batch, because the config is slow to read
        if self.is_of_classes and labels.is_floating_point():
            raise ValueError(
                f"the labels are floating point, of shape {tuple(labels.shape)}. For several "
                f"labels per example, set model.config.problem_type = "
                f"'multi_label_classification'. Remove a data collator that mixes. For soft "
                f"labels, give the Trainer a compute_loss_func."
            )
        shape = logits.shape[:-1] if self.is_of_classes else logits.shape
        if labels.numel() != shape.numel():
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} do not fit logits of shape "
                f"{tuple(logits.shape)} in {self.kind}. Check num_labels and problem_type in the "
                f"model's config, or give the Trainer a compute_loss_func."
            )
        return labels.view(shape) if self.is_of_classes else labels.view(shape).float()

    def __call__(
        self, logits: Tensor, targets: Tensor, *, num_items_in_batch: Any, reduction: str = "mean"
    ) -> Tensor:
        """Return the plain loss: the batch's share of the mean over all items of the step.

        A step has several batches with gradient accumulation or on several devices.
        """
        each = reduction == "none"
        options: dict[str, Any] = {"reduction": "none" if each else "sum"}
        if self.is_of_classes:
            logits = logits.movedim(-1, 1)
            options["label_smoothing"] = self.trainer.args.label_smoothing_factor
        losses: Tensor = _LOSSES[self.kind](logits.float(), targets, **options)
        return losses if each else losses / num_items_in_batch


def logits_of(outputs: Any) -> Tensor:
    """Return the logits of a model's outputs, ``(batch, *positions, labels)``."""
    logits = outputs.get("logits") if isinstance(outputs, dict) else outputs[0]
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model returned {list(outputs)}, but no logits. Use a model with a head for its "
            f"task, or give the Trainer a compute_loss_func."
        )
    return logits


def _kind(model: Any) -> str:
    """Return the problem type of a model; with one label and no type, set it to regression."""
    config: Any = getattr(model, "config", None)
    kind: str | None = getattr(config, "problem_type", None)
    if kind is None and getattr(config, "num_labels", None) == 1:
        # The model would also set this if it computed the loss, and pipelines read it.
        kind = config.problem_type = "regression"
    return kind or _CLASSES
