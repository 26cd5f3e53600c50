"""Ways out that take more than a sentence."""

from manifold_mixup._structure.rows import InputRow

# A decoder of Hugging Face finds the last token by the ids, which cannot be mixed; a module that is
# given the mask can be given the mixed one.
POOLING = """\
It looks for the end of a sentence in the ids, which cannot be mixed. Give the mask to a module \
that pools, and mix it too, by mask="attention_mask":

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


def pooling(inputs: tuple[InputRow, ...], late: tuple[str, ...]) -> str:
    """Return how to pool by a mask, if token ids are among the inputs that are read ``late``."""
    ids = {row.name for row in inputs if row.kind == "data" and not row.floating}
    return f" {POOLING}" if ids & set(late) else ""
