"""The loss that classifiers and regressors of Transformers compute by themselves, written out."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import Trainer

_CLASSES = "single_label_classification"
_LOSSES: dict[str, Callable[..., Tensor]] = {
    _CLASSES: functional.cross_entropy,
    "regression": functional.mse_loss,
    "multi_label_classification": functional.binary_cross_entropy_with_logits,
}


class ModelLoss:
    """The loss that ``config.problem_type`` of a Trainer's model stands for."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.kind = _CLASSES  # of the latest batch whose targets were asked for

    @property
    def is_of_classes(self) -> bool:
        """Return whether every example, or position, has one class of several."""
        return self.kind == _CLASSES

    def targets(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return labels in the shape that the loss asks for; numbers as such, for they mix."""
        self.kind = _kind(self.trainer.model)  # once a batch: configurations are slow to read
        if self.is_of_classes and labels.is_floating_point():
            raise ValueError(
                f"the labels are floating point, of shape {tuple(labels.shape)}. For several "
                f"labels an example say model.config.problem_type = 'multi_label_classification'. "
                f"A data collator that mixes has to go. For soft labels give the Trainer a "
                f"compute_loss_func."
            )
        shape = logits.shape[:-1] if self.is_of_classes else logits.shape
        if labels.numel() != shape.numel():
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} do not fit logits of shape "
                f"{tuple(logits.shape)} in {self.kind}. See to num_labels and problem_type of the "
                f"model's config, or give the Trainer a compute_loss_func."
            )
        return labels.view(shape) if self.is_of_classes else labels.view(shape).float()

    def __call__(
        self, logits: Tensor, targets: Tensor, *, num_items_in_batch: Any, reduction: str = "mean"
    ) -> Tensor:
        """Return a batch's share of the mean over all items of the step, as if nothing was mixed.

        The step has several batches with gradient accumulation, and on several devices.
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
            f"the model returned no logits, but {list(outputs)}. Take a model with a head for its "
            f"task, or give the Trainer a compute_loss_func."
        )
    return logits


def _kind(model: Any) -> str:
    """Return the problem type of a model; with one label and no type it becomes a regressor."""
    config: Any = getattr(model, "config", None)
    kind: str | None = getattr(config, "problem_type", None)
    if kind is None and getattr(config, "num_labels", None) == 1:
        # The model would note it too, if it were to compute the loss. Pipelines look there.
        kind = config.problem_type = "regression"
    return kind or _CLASSES
