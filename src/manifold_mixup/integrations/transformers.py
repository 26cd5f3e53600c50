"""Manifold Mixup in the Trainer of Hugging Face Transformers."""

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from manifold_mixup import ManifoldMixup, MixedTarget
from manifold_mixup.integrations._trainer_loss import ModelLoss, logits_of


def add_to_trainer(trainer: Trainer, mixup: ManifoldMixup, **options: Any) -> None:
    """Have a Trainer compute its loss with ``mixup``, log it, and save its stream of plans.

    A ``compute_loss_func`` that the Trainer already has is called with mixed targets. Otherwise the
    loss is the one that the model's ``config.problem_type`` stands for, with the Trainer's label
    smoothing. Beside it are logged, of the latest batch of the first process, ``mixup_lam``,
    ``mixup_layer`` (its place in ``mixup.layers``, -1 if it was not mixed) and, of classes and by
    that loss, ``mixup_accuracy`` on the mixed targets. A training that resumes from a checkpoint
    draws the plans that an uninterrupted one would have.

    Args:
        trainer: a Trainer before ``train()``.
        mixup: attached to the Trainer's model.
        options: ``targets`` and all else that `ManifoldMixup.wrap` takes, for the
            ``compute_loss_func``.

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
            f"{type(model).__name__}. Give the Trainer a compute_loss_func; that of a language "
            f"model has to shift the labels."
        )
    if given is None and options:
        raise ValueError(
            f"{', '.join(options)} is for a loss of your own: give the Trainer a compute_loss_func."
        )
    mixing = _Mixing(trainer, mixup, options)
    trainer.compute_loss_func = mixing.loss
    trainer.add_callback(mixing)


class _Mixing(TrainerCallback):  # type: ignore[misc] # of a type that is not read
    """The loss of a Trainer that mixes, and what to do when it logs, saves or resumes."""

    def __init__(self, trainer: Trainer, mixup: ManifoldMixup, options: dict[str, Any]) -> None:
        self.trainer, self.mixup = trainer, mixup
        self.given, self.plain = trainer.compute_loss_func, ModelLoss(trainer)
        # Its losses of numbers are PyTorch's own, which mix targets that float.
        self.criterion = mixup.wrap(
            self.given or self.plain, **(options if self.given else {"targets": "mix"})
        )
        self.latest: tuple[Tensor, MixedTarget] | None = None  # logits of a batch, and classes

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
        logits = logits_of(outputs)
        targets = self.plain.targets(labels, logits)
        if self.plain.is_of_classes and torch.is_grad_enabled():
            self.latest = logits.detach(), MixedTarget(targets, self.mixup.plan)
        return self.criterion(logits, targets, num_items_in_batch=num_items_in_batch)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on with the plans of the checkpoint, if the Trainer resumes from one."""
        self.latest = None
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
        if self.latest is not None:
            logits, targets = self.latest
            mixed["mixup_accuracy"] = targets.accuracy(logits.movedim(-1, 1)).item()
            self.latest = None
        self.trainer.log(mixed)


_STATE = "manifold_mixup"
