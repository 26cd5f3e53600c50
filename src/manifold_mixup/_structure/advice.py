"""Advice that takes more than a sentence."""

from manifold_mixup._structure.row import InputRow

# Hugging Face decoders find the last token by the token ids, which cannot be mixed. A module that
# receives the mask can receive the mixed mask instead.
_POOLING = """\
It finds the end of a sequence by the token ids, which cannot be mixed. Pass the mask to a pooling \
module, and mix the mask too, with mask="attention_mask":

class Last(nn.Module):
    def forward(self, h, mask):
        mask = mask.to(h.dtype)
        following = nn.functional.pad(mask[:, 1:], (0, 1))
        return ((mask - following).clamp(min=0)[..., None] * h).sum(1)

class Classifier(nn.Module):
    def __init__(self, body, width, classes):
        super().__init__()
        self.body, self.pool, self.head = body, Last(), nn.Linear(width, classes)

    def forward(self, input_ids, attention_mask):
        h = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(self.pool(h, attention_mask))"""


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


def on_late(inputs: tuple[InputRow, ...], late: tuple[str, ...]) -> str:
    """Return advice on the inputs that are read ``late``: token positions, lengths, token ids."""
    if positions := [name for name in late if "position" in name.lower()]:
        return _POSITIONS.format(names=" or ".join(map(repr, positions)))
    lengths = [row.name for row in inputs if row.name in late and _may_be_lengths(row)]
    if lengths:
        return _LENGTHS.format(names=" or ".join(map(repr, lengths)))
    ids = {row.name for row in inputs if row.kind == "data" and not row.floating}
    return f" {_POOLING}" if ids & set(late) else ""


def _may_be_lengths(row: InputRow) -> bool:
    return row.kind == "side" and not row.floating and len(row.shape) == 1
