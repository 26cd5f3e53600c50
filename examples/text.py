"""Text: a small Transformer, trained from scratch, classifies questions and film reviews.

    python examples/text.py --data FOLDER      # the files that _sentences.py names

Sentences are padded to the same length, and every block reads a padding mask. ``mask=`` mixes the
masks of both sentences like their states. Without it, ManifoldMixup refuses all layers before the
last one that reads the mask. Settings were chosen on TREC. docs/padding.md compares alternatives.
"""

from torch import nn

from _sentences import FILES, LONGEST, read
from _table import compare
from _training import classification, fit, predict
from manifold_mixup import ManifoldMixup

PLACES = {"embedding": ["embed"], "encoder": ["blocks.0", "blocks.1"], "pooled": ["pool"]}
SETTINGS = {"lr": 1e-2, "epochs": 10}
TABLES = {
    task: {"no mixup": {"task": task, **SETTINGS}}
    | {place: {"task": task, **SETTINGS, "layers": PLACES[place], "alpha": 0.2} for place in PLACES}
    for task in FILES
}


class Embed(nn.Module):
    """Embeddings of the words and of their positions."""

    def __init__(self, words, width):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(LONGEST, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.2)

    def forward(self, ids):  # noqa: D102
        return self.dropout(self.norm(self.words(ids) + self.places.weight[: ids.shape[1]]))


class Mean(nn.Module):
    """The mean of the states, weighted by the mask."""

    def forward(self, h, mask):  # noqa: D102
        weights = mask.to(h.dtype)[..., None]
        return (weights * h).sum(1) / weights.sum(1)


class Net(nn.Module):
    """Embeddings, two Transformer blocks, the mean over the sentence, and a linear head."""

    def __init__(self, words, classes, width=32):
        super().__init__()
        block = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.embed = Embed(words, width)
        blocks = [nn.TransformerEncoderLayer(width, 2, 2 * width, **block) for _ in range(2)]
        self.blocks = nn.ModuleList(blocks)
        self.pool, self.head = Mean(), nn.Linear(width, classes)

    def forward(self, ids, mask):  # noqa: D102
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, src_key_padding_mask=~mask)
        return self.head(self.pool(h, mask))


def load(seed, *, data: str = ".", rows: int = 10**6, split: str = "test"):
    """Read both tasks; the seed affects only the weights and the order."""
    return ({task: read(data, task, split=split, rows=rows) for task in FILES},)


def train(tasks, *, task: str, lr: float, epochs: int, layers: tuple = (), alpha: float = 1.0):
    """Train a network and return its scores."""
    sizes, data, scored = tasks[task]
    model, criterion = Net(*sizes), nn.CrossEntropyLoss()
    if layers:
        criterion = ManifoldMixup(model, layers, mask="mask", alpha=alpha).wrap(criterion)
    fit(model, criterion, data, lr=lr, epochs=epochs, batch=64)
    return classification(*predict(model, scored))


if __name__ == "__main__":
    compare(__doc__, load, train, TABLES, quick={"rows": 200, "epochs": 5})
