"""Manifold Mixup in the Trainer of Hugging Face Transformers."""

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from manifold_mixup import ManifoldMixup, MixedTarget
from manifold_mixup.integrations._trainer_loss import ModelLoss, logits_of


def add_to_trainer(trainer: Trainer, mixup: ManifoldMixup, **options: Any) -> None:
    """Make a Trainer compute its loss with ``mixup``, log it, and save its stream of plans.

    If the Trainer has a ``compute_loss_func``, it is called with mixed targets. Otherwise the loss
    is the one that the model's ``config.problem_type`` selects, with the Trainer's label smoothing.
    With the training loss, the first process logs for its latest batch ``mixup_lam``,
    ``mixup_layer`` (the index in ``mixup.layers``, -1 if it was not mixed) and, for classes without
    a ``compute_loss_func``, ``mixup_accuracy`` on the mixed targets. A run that resumes from a
    checkpoint draws the same plans as an uninterrupted one.

    Args:
        trainer: a Trainer before ``train()``.
        mixup: the attachment to the Trainer's model.
        options: ``targets`` and all other options of `ManifoldMixup.wrap`, for the
            ``compute_loss_func``.

    Raises:
        RuntimeError: the Trainer already mixes.
        TypeError: the Trainer has no ``compute_loss_func``, and its model is not for classification
            or regression.
        ValueError: there are options but no ``compute_loss_func``.
    """
    given, model = trainer.compute_loss_func, trainer.model
    if isinstance(getattr(given, "__self__", None), _Mixing):
        raise RuntimeError("this Trainer already mixes; a second call would mix its targets twice.")
    task = getattr(model, "loss_type", None) or "Classification"
    generates = getattr(model, "can_generate", bool)()
    if given is None and (generates or not task.endswith("Classification")):
        raise TypeError(
            f"add_to_trainer supports classification and regression models, but not "
            f"{type(model).__name__}. Give the Trainer a compute_loss_func; for a language model "
            f"it must shift the labels."
        )
    if given is None and options:
        raise ValueError(
            f"{', '.join(options)} needs a loss of your own: give the Trainer a compute_loss_func."
        )
    mixing = _Mixing(trainer, mixup, options)
    trainer.compute_loss_func = mixing.loss
    trainer.add_callback(mixing)


class _Mixing(TrainerCallback):  # type: ignore[misc] # of a type that is not read
    """The loss of a Trainer that mixes, and its callbacks for logging, saving and resuming."""

    def __init__(self, trainer: Trainer, mixup: ManifoldMixup, options: dict[str, Any]) -> None:
        self.trainer, self.mixup = trainer, mixup
        self.given, self.plain = trainer.compute_loss_func, ModelLoss(trainer)
        # ModelLoss uses PyTorch's losses, for which floating point targets can be mixed.
        self.criterion = mixup.wrap(
            self.given or self.plain, **(options if self.given else {"targets": "mix"})
        )
        self.latest: tuple[Tensor, MixedTarget] | None = None  # logits and classes of a batch

    def loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a batch; the Trainer calls this as its ``compute_loss_func``."""
        if labels is None or not (self.given or isinstance(labels, Tensor)):
            raise TypeError(
                f"the labels are a {type(labels).__name__}, not a tensor. The Trainer passes on a "
                f"batch's 'labels' only if the model's forward has an argument of that name. Name "
                f"the targets 'labels', set remove_unused_columns=False for a model of your own, "
                f"and remove a data collator that mixes."
            )
        if self.given:
            return self.criterion(outputs, labels, num_items_in_batch=num_items_in_batch)
        logits = logits_of(outputs)
        targets = self.plain.targets(labels, logits)
        if self.plain.is_of_classes and torch.is_grad_enabled():
            self.latest = logits.detach(), MixedTarget(targets, self.mixup.plan)
        return self.criterion(logits, targets, num_items_in_batch=num_items_in_batch)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Continue with the plans of the checkpoint if the Trainer resumes from one."""
        self.latest = None
        if _STATE in state.stateful_callbacks:
            self.mixup.load_state_dict(state.stateful_callbacks[_STATE])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the stream of plans in the Trainer's state, which every checkpoint contains."""
        state.stateful_callbacks[_STATE] = self.mixup.state_dict()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log what was mixed whenever the training loss is logged."""
        if "loss" not in logs:
            return
        plan = self.mixup.plan
        mixed = {
            "mixup_lam": 1.0 if plan is None else plan.lam.mean().item(),
            "mixup_layer": -1 if plan is None else self.mixup.layers.index(plan.layer),
        }
        if self.latest is not None:
            logits, targets = self.latest
            mixed["mixup_accuracy"] = targets.accuracy(logits.movedim(-1, 1)).item()
            self.latest = None
        self.trainer.log(mixed)


_STATE = "manifold_mixup"
