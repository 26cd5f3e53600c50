#!/usr/bin/env bash
# kornia 0.9.0: RandomMixUpV2 goes on mixing in eval mode, and its lambda is the weight of the partner.
#
# Expected: an augmentation that is a module, inside of a model say, is the identity after eval(), as dropout is; and lambda, as in
# the paper and in other libraries, is the weight of the example itself.
# Seen: images and labels are mixed after eval() too. Labels come as (own, partner, lambda), of which the image is
# (1 - lambda) * own + lambda * partner: a loss lambda * own + (1 - lambda) * partner trains on the labels the wrong way round.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 kornia==0.9.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from kornia.augmentation import RandomMixUpV2

torch.manual_seed(0)
mixup = RandomMixUpV2(p=1.0, data_keys=["input", "class"]).eval()
own = torch.tensor([0, 1, 2, 3])
images = own.float().view(4, 1, 1, 1).expand(4, 1, 4, 4).contiguous()  # every image shows its class
for _ in range(3):
    mixed, labels = mixup(images, own)
    first, partner, lam = labels.unbind(1)
    shown = mixed[:, 0, 0, 0]
    if not torch.equal(first, partner):
        break
print("shown", [round(value, 4) for value in shown.tolist()])
print("labels", [[round(value, 4) for value in row] for row in labels.tolist()])
assert not torch.equal(mixed, images), "eval() switches it off now: this has changed"
torch.testing.assert_close(shown, (1 - lam) * first + lam * partner)
assert not torch.allclose(shown, lam * first + (1 - lam) * partner), "the weight is the own one now"
PY
