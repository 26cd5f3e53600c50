"""Causal language models: which models they are, and which of their batches cannot be mixed."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.loss.loss_utils import ForCausalLMLoss

IGNORED = -100


def predicts_next_tokens(model: Any) -> bool:
    """Return whether a model computes the loss of its logits and its labels shifted by one.

    Other models of a name that ends in ``ForCausalLM`` compute another loss, or do not shift.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    forward = inspect.unwrap(type(model).forward)
    uses = "loss_function" in getattr(getattr(forward, "__code__", None), "co_names", ())
    return uses and getattr(model, "loss_function", None) is ForCausalLMLoss


def without_adapters(model: Any) -> Any:
    """Return the model to which PEFT has added its adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def next_tokens(labels: Tensor, logits: Tensor) -> Tensor:
    """Return for every position, ``(batch, time)``, the label of the next; the last has none."""
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and dtype {labels.dtype} do not fit logits of "
            f"shape {tuple(logits.shape)}: a causal language model needs one token id per "
            f"position. Remove what adds positions inside the model (such as virtual tokens) or "
            f"mixes the labels, or give the Trainer a compute_loss_func."
        )
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def require_one_loss(outputs: Any, config: Any) -> None:
    """Raise if a model adds another term to the loss of the next tokens."""
    aux = outputs.get("aux_loss") if isinstance(outputs, dict) else None
    if aux is None and not getattr(config, "z_loss_coefficient", 0):
        return
    name, off = ("z_loss", "z_loss_coefficient=0")
    if aux is not None:
        name, off = ("aux_loss", "output_router_logits=False")
    raise ValueError(
        f"the model adds {name!r} to its loss, and add_to_trainer does not. Set {off} in the "
        f"model's config, or give the Trainer a compute_loss_func that adds it."
    )


def is_one_row(inputs: Mapping[str, Any]) -> bool:
    """Return whether a batch is a single row of several sequences."""
    ids, positions = inputs.get("input_ids"), inputs.get("position_ids")
    if not isinstance(ids, Tensor) or len(ids) > 1:
        return False
    if "cu_seq_lens_q" in inputs or "seq_idx" in inputs:
        return True
    if not isinstance(positions, Tensor) or positions.ndim != 2:
        return False
    return bool((positions[:, 1:] <= positions[:, :-1]).any())


def require_unpadded(inputs: Mapping[str, Any], targets: Tensor) -> None:
    """Raise if a padded position has a target: what it predicts depends on the partner.

    Args:
        inputs: what the model received.
        targets: the target of every position, ``(batch, time)``, after the shift.
    """
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        return
    valid = mask > -1 if mask.is_floating_point() and mask.ndim == 4 else mask != 0
    valid = valid.flatten(1, -2).any(1) if mask.ndim == 4 else valid
    if valid.shape == targets.shape and bool((~valid & (targets != IGNORED)).any()):
        raise ValueError(
            "a padded position has the next token as its target: with padding on the left, the "
            "first token of a row is predicted from the padding before it. A mixed row has the "
            "partner's state there. Pad on the right (tokenizer.padding_side = 'right'), or set "
            f"the label of each row's first token to {IGNORED}."
        )


ONE_ROW = (
    "the batch is a single row that holds several sequences, one after the other (as by "
    "DataCollatorWithFlattening), so there is nothing to mix it with: partners are rows of a "
    "batch. Pad the sequences (DataCollatorForLanguageModeling(tokenizer, mlm=False), and "
    "mask='attention_mask'), or pack them into several rows of one length without position_ids. "
    "To keep the sequences of a row apart, pass an additive attention_mask of shape "
    "(batch, 1, time, time)."
)
