#!/usr/bin/env bash
# SpeechBrain 1.1.2: with parallel_augment_fixed_bs, Augmenter returns more lengths and labels than signals.
#
# Expected: with two augmentations in parallel and a fixed batch size, each augments half of the batch; the signals, their lengths and
# the labels from replicate_labels have one row for each, in the same order, as without the option.
# Seen: the signals are one batch, but lengths and labels are repeated for each augmentation, as if every one had augmented all. Four
# signals come with eight lengths and eight labels; together with the originals, with twelve.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchaudio==2.11.0 speechbrain==1.1.2
env/bin/python -W ignore - <<'PY'
import torch
from speechbrain.augment.augmenter import Augmenter


class Add(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x + self.value


signals = torch.arange(4.0).view(4, 1).repeat(1, 10)  # signal i is i everywhere, and has label i
lengths, labels = torch.tensor([1.0, 0.9, 0.8, 0.7]), torch.arange(4)
counts = {}
for fixed in (False, True):
    for originals in (False, True):
        augmenter = Augmenter(
            parallel_augment=True,
            parallel_augment_fixed_bs=fixed,
            concat_original=originals,
            min_augmentations=2,
            augmentations=[Add(100.0), Add(200.0)],
        )
        out, out_lengths = augmenter(signals, lengths)
        out_labels = augmenter.replicate_labels(labels)
        counts[fixed, originals] = len(out), len(out_lengths), len(out_labels)
        print(f"fixed batch size {fixed}, originals {originals}: signals", out[:, 0].int().tolist())
        print("    lengths", [round(length, 1) for length in out_lengths.tolist()], "labels", out_labels.tolist())
assert counts[False, False] == (8, 8, 8) and counts[False, True] == (12, 12, 12)
assert counts[True, False] == (4, 8, 8) and counts[True, True] == (8, 12, 12), "they agree: this has changed"
PY
