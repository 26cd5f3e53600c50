"""Manifold Mixup in the Trainer of Hugging Face Transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DataCollatorWithFlattening, Trainer, TrainerCallback

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan
from manifold_mixup.integrations._next_tokens import (
    ONE_ROW,
    is_one_row,
    predicts_next_tokens,
    require_one_loss,
    require_unpadded,
    without_adapters,
)
from manifold_mixup.integrations._trainer_loss import ModelLoss, logits_of


def add_to_trainer(trainer: Trainer, mixup: ManifoldMixup, **options: Any) -> None:
    """Make a Trainer compute its loss with ``mixup``, log it, and save its stream of plans.

    If the Trainer has a ``compute_loss_func``, it is called with mixed targets. Otherwise the loss
    is the model's own, with the Trainer's label smoothing: that of the next tokens for a causal
    language model, and for others the one that ``config.problem_type`` selects. With the training
    loss, the first process logs for its latest batch ``mixup_lam``, ``mixup_layer`` (the index in
    ``mixup.layers``, -1 if it was not mixed) and, for classes without a ``compute_loss_func``
    except next tokens, ``mixup_accuracy`` on the mixed targets. The inputs of a decoder are made of
    the labels, as an encoder-decoder does, if the batch lacks them. A run that resumes from a
    checkpoint draws the same plans as an uninterrupted one. If ``pairs`` or ``label`` of ``mixup``
    depends on the targets, these are the batch's ``labels``.

    Args:
        trainer: a Trainer before ``train()``.
        mixup: the attachment to the Trainer's model.
        options: ``targets`` and all other options of `ManifoldMixup.wrap`, for the
            ``compute_loss_func``.

    Raises:
        RuntimeError: the Trainer already mixes.
        TypeError: the Trainer has no ``compute_loss_func``, and its model is not for classification
            or regression and no causal language model.
        ValueError: there are options but no ``compute_loss_func``, or the data collator makes a
            single row of a batch.
    """
    given, model = trainer.compute_loss_func, trainer.model
    if isinstance(getattr(given, "__self__", None), _Mixing):
        raise RuntimeError("this Trainer already mixes; a second call would mix its targets twice.")
    if isinstance(trainer.data_collator, DataCollatorWithFlattening):
        raise ValueError(ONE_ROW)
    if given is None and not _has_known_loss(without_adapters(model)):
        kind = type(without_adapters(model)).__name__
        way_out = _OF_LISTS if any(word in kind for word in _WITH_LISTS) else _OWN_LOSS
        raise TypeError(
            f"add_to_trainer supports classification, regression and causal language models whose "
            f"forward calls self.loss_function, but not {kind}. {way_out}"
        )
    if given is None and options:
        raise ValueError(
            f"{', '.join(options)} needs a loss of your own: give the Trainer a compute_loss_func."
        )
    mixing = _Mixing(trainer, mixup, options)
    trainer.compute_loss_func = mixing.loss
    trainer.compute_loss = mixing.noting_inputs(trainer.compute_loss)
    trainer.training_step = mixing.explaining(trainer.training_step)
    trainer.add_callback(mixing)


def _has_known_loss(model: Any) -> bool:
    if predicts_next_tokens(model):
        return True
    task = getattr(model, "loss_type", None) or "Classification"
    return task.endswith("Classification") and not getattr(model, "can_generate", bool)()


class _Mixing(TrainerCallback):  # type: ignore[misc] # of a type that is not read
    """The loss of a Trainer that mixes, and its callbacks for logging, saving and resuming."""

    def __init__(self, trainer: Trainer, mixup: ManifoldMixup, options: dict[str, Any]) -> None:
        self.trainer, self.mixup = trainer, mixup
        self.given, self.plain = trainer.compute_loss_func, ModelLoss(trainer)
        # ModelLoss uses PyTorch's losses, for which floating point targets can be mixed.
        self.criterion = mixup.wrap(
            self.given or self.plain, **(options if self.given else {"targets": "mix"})
        )
        self.cross_entropy = nn.CrossEntropyLoss(reduction="sum")
        self.of_classes = mixup.wrap(self.cross_entropy)
        # Logits, classes and the plan of a batch.
        self.latest: tuple[Tensor, Tensor, MixPlan | None] | None = None
        self.inputs: dict[str, Any] = {}  # of the running batch
        self.reached = False  # whether the running step has called `loss`

    def noting_inputs(self, compute_loss: Callable[..., Any]) -> Callable[..., Any]:
        """Return the Trainer's ``compute_loss``, which notes what a ``compute_loss_func`` lacks."""

        def noting(model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            if added := self._decoder_inputs(inputs):
                inputs = {**inputs, **added}
            self.inputs = dict(inputs)
            if self.mixup.needs_targets and model.training and torch.is_grad_enabled():
                self.mixup.batch(self.inputs.get("labels"))
            try:
                return compute_loss(model, inputs, *args, **options)
            except ValueError as error:  # the layers are checked on the first batch
                if is_one_row(self.inputs):
                    raise ValueError(ONE_ROW) from error
                raise
            finally:
                self.inputs = {}

        return noting

    def _decoder_inputs(self, inputs: Any) -> dict[str, Any]:
        """Return what an encoder-decoder makes of the labels, which the Trainer takes away."""
        shift = getattr(without_adapters(self.trainer.model), _SHIFT, None)
        labels = isinstance(inputs.get("labels"), Tensor)
        if shift is None or not labels or _DECODED & set(inputs):
            return {}
        return {"decoder_input_ids": shift(labels=inputs["labels"])}

    def explaining(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        """Return the Trainer's ``training_step``, which explains targets that were not mixed."""

        def explained(*args: Any, **options: Any) -> Any:
            self.reached = False
            try:
                return training_step(*args, **options)
            except RuntimeError as error:
                if not self.reached and "targets were not mixed" in str(error):
                    error.add_note(_OVERRIDDEN.format(type(self.trainer).__name__))
                raise

        return explained

    def loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a batch; the Trainer calls this as its ``compute_loss_func``."""
        self.reached = True
        if isinstance(labels, list):
            raise TypeError(f"the labels are a list. {_OF_LISTS}")
        if labels is None or not (self.given or isinstance(labels, Tensor)):
            raise TypeError(
                f"the labels are a {type(labels).__name__}, not a tensor. The Trainer passes on a "
                f"batch's 'labels' only if the model's forward has an argument of that name. Name "
                f"the targets 'labels', set remove_unused_columns=False for a model of your own, "
                f"and remove a data collator that mixes."
            )
        if self.mixup.plan is not None and torch.is_grad_enabled() and is_one_row(self.inputs):
            raise ValueError(ONE_ROW)
        if self.given:
            return self.criterion(outputs, labels, num_items_in_batch=num_items_in_batch)
        logits = logits_of(outputs)
        targets = self.plain.targets(labels, logits)
        if self.plain.shifts:  # whose logits are too many to be kept until they are logged
            self._require_plain_tokens(outputs, targets)
        elif self.plain.is_of_classes:
            if torch.is_grad_enabled():
                self.latest = logits.detach(), targets, self.mixup.plan
            return self._loss_of_classes(logits, targets) / num_items_in_batch
        return self.criterion(logits, targets, num_items_in_batch=num_items_in_batch)

    def _loss_of_classes(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over a batch, as `ModelLoss` does, but both ends from one log-softmax."""
        smoothing = self.trainer.args.label_smoothing_factor
        if self.cross_entropy.label_smoothing != smoothing:  # a search may change it
            self.cross_entropy.label_smoothing = smoothing
        scores = logits if logits.ndim == 2 else logits.movedim(-1, 1)
        total: Tensor = self.of_classes(scores.float(), targets)
        return total

    def _require_plain_tokens(self, outputs: Any, targets: Tensor) -> None:
        if "shift_labels" in self.inputs:
            raise ValueError(
                "the batch holds shift_labels, which would not be mixed. Remove them: the labels "
                "are shifted here."
            )
        require_one_loss(outputs, self.trainer.model.config)
        if self.mixup.plan is not None and torch.is_grad_enabled():
            require_unpadded(self.inputs, targets)

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
            logits, targets, plan = self.latest
            accuracy = MixedTarget(targets, plan).accuracy(logits.movedim(-1, 1))
            mixed["mixup_accuracy"] = accuracy.item()
            self.latest = None
        self.trainer.log(mixed)


_STATE = "manifold_mixup"
# The method by which encoder-decoders make the inputs of their decoder, and how these are called.
_SHIFT = "prepare_decoder_input_ids_from_labels"
_DECODED = {"decoder_input_ids", "decoder_inputs_embeds"}
_OWN_LOSS = (
    "Give the Trainer a compute_loss_func that computes this model's loss from its outputs and "
    "labels; if a position predicts the next token, it must shift the labels."
)
# In the names of models whose labels are lists with an item for each image.
_WITH_LISTS = ("ObjectDetection", "InstanceSegmentation", "UniversalSegmentation")
_OF_LISTS = (
    "Labels in a list, such as the boxes of each image, cannot be mixed. Leave such a model "
    "unmixed; or, in compute_loss of a subclass of Trainer, wrap a loss of the examples' numbers: "
    "criterion = mixup.wrap(lambda outputs, rows: loss(outputs, [labels[i] for i "
    "in rows])); criterion(outputs, torch.arange(len(labels)))."
)
_OVERRIDDEN = (
    "{0}.compute_loss computes the loss itself, so the criterion of add_to_trainer is not called. "
    "Wrap the criterion there, mixup.wrap(criterion)(outputs.logits, labels); or do not override "
    "compute_loss, and give {0} a compute_loss_func."
)
