"""Advice that takes more than a sentence."""

from collections.abc import Collection, Sequence

from torch import Tensor

from manifold_mixup._structure.row import InputRow

_LAST = """\
class Last(nn.Module):
    def forward(self, h, mask):
        mask = mask.to(h.dtype)
        following = nn.functional.pad(mask[:, 1:], (0, 1))
        return ((mask - following).clamp(min=0)[..., None] * h).sum(1)"""

# Hugging Face decoders find the last token by the token ids, which cannot be mixed. A module that
# receives the mask can receive the mixed mask instead.
_POOLING = f"""\
It looks for padding, or for the end of a sequence, in the token ids, which cannot be mixed. Pass \
forward the padding mask instead, and let it pass the mask to a module wherever it is read: then \
mask= mixes it too. With mask="attention_mask", this finds the last token:

{_LAST}

class Classifier(nn.Module):
    def __init__(self, body, width, classes):
        super().__init__()
        self.body, self.pool, self.head = body, Last(), nn.Linear(width, classes)

    def forward(self, input_ids, attention_mask):
        h = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(self.pool(h, attention_mask))"""

# A packed batch has the steps of many examples at dimension 0, in an order of its own.
_UNPACKED = f"""\
 Do not pack sequences of different lengths: before the padding, a recurrent layer that runs \
forward only has the same states without. For a target of each step, let the criterion ignore \
those of the padding. For one of the sequence, pass forward the padding mask, set mask= to its \
name, and take the last state in a module, self.last(self.rnn(x)[0], mask):

{_LAST}"""
_PACKED = (
    " If {names} is the length of each example: where all are equally long, let forward make it, "
    "torch.full((len(x),), x.shape[1])." + _UNPACKED
)


_POSITIONS = (
    " If {names} is the same in every row, leave it out: the model then numbers the positions "
    "itself. If a row packs several sequences, an additive mask of shape (batch, 1, time, time) "
    "keeps them apart without positions that restart, and mask= mixes it."
)

_LENGTHS = (
    " If {names} is the length of each example: where all are equally long, let forward make it, "
    "torch.full((len(x),), x.shape[1]). Where they differ, pass forward the padding mask instead, "
    "let it compute the lengths, mask.sum(1), and set mask=."
)

_LABELS = (
    " If {names} holds labels: leave them out, and compute what depends on them (a loss, a margin) "
    "outside the model, in a criterion: mixup.wrap(criterion)(model(x), y)."
)


def on_late(
    inputs: tuple[InputRow, ...],
    late: Collection[str],
    lengths: Collection[str] = (),
    *,
    packs: bool = False,
    as_mask: Collection[str] = (),
) -> str:
    """Return advice on the inputs that are read ``late``: positions, lengths, labels, token ids.

    Args:
        inputs: the inputs of the model.
        late: names of those that are read after a layer.
        lengths: names of those whose values may be lengths, see `may_be_lengths`.
        packs: whether the model packs sequences, by their lengths.
        as_mask: names of those of which modules receive a mask, which can be mixed.
    """
    if positions := [name for name in late if "position" in name.lower()]:
        return _POSITIONS.format(names=" or ".join(map(repr, positions)))
    numbers = [row.name for row in inputs if row.name in late and _is_number_each(row)]
    given = [row.name for row in inputs if row.name in late] if packs else numbers
    if found := [name for name in given if name in lengths]:
        advice = _PACKED if packs else _LENGTHS
        return advice.replace("{names}", " or ".join(map(repr, found)))
    if packs and any(row.kind == "side" and row.name in late for row in inputs) and not numbers:
        return _UNPACKED
    if numbers:
        return _LABELS.format(names=" or ".join(map(repr, numbers)))
    ids = {row.name for row in inputs if row.kind == "data" and not row.floating}
    return f" {_POOLING}" if ids & set(late) - set(as_mask) else ""


def on_masks(masks: Sequence[str]) -> str:
    """Return advice on masks that are read late and cannot be mixed; empty if there are none."""
    if not masks:
        return ""
    names, them = " and ".join(map(repr, masks)), "them" if len(masks) > 1 else "it"
    return f" If nothing is padded and forward runs without {them}, leave {names} out."


def _is_number_each(row: InputRow) -> bool:
    return row.kind == "side" and not row.floating and len(row.shape) == 1


def may_be_lengths(name: str, values: Tensor, others: Sequence[Tensor]) -> bool:
    """Return whether an input can be the length of each example.

    The lengths of a padded batch are at least 1 and at most the padded length, which is a dimension
    of another input. Unless the name says so, the longest example is to have that length.
    """
    if values.ndim != 1 or values.is_floating_point() or values.is_complex():
        return False
    named = "len" in name.lower()
    padded = {size for other in others if len(other.shape) > 1 for size in other.shape[1:]}
    from torch._subclasses.fake_tensor import FakeTensor  # only an inspection needs it

    if isinstance(values, FakeTensor) or values.is_meta or not len(values):
        return named
    try:
        least, most = int(values.min()), int(values.max())
    except (NotImplementedError, RuntimeError):  # not for every dtype and layout
        return named
    return least >= 1 and (most in padded or (named and most <= max(padded, default=0)))
