#!/usr/bin/env bash
# lightly 1.6.0: CO2Regularizer returns a number without a gradient, so adding it to a loss changes nothing but the printed loss.
#
# Expected: as in its example, loss = contrastive loss + co2(out0, out1) is trained with the regularizer, in proportion to alpha.
# Seen: its last line puts the value through torch.tensor(...), which cuts it from the graph. Whatever alpha is, the gradient is that
# of the contrastive loss alone. With the pseudo labels of the same layer computed by hand the regularizer has a gradient.
# The only sign is a warning of PyTorch about copies of tensors; alone, the regularizer cannot be differentiated.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 lightly==1.6.0
env/bin/python -W ignore - <<'PY'
import torch
from lightly.loss import NTXentLoss
from lightly.loss.regularizer import CO2Regularizer
from torch.nn.functional import kl_div, normalize

torch.manual_seed(0)
out0, out1 = (torch.randn(8, 4, requires_grad=True) for _ in range(2))


def gradient(loss):
    return torch.autograd.grad(loss, out0)[0]


def by_hand(co2):
    """The same value: half the symmetric divergence of the two views' pseudo labels."""
    one, two = normalize(out0, dim=1), normalize(out1, dim=1)
    p, q = co2._get_pseudo_labels(one, two), co2._get_pseudo_labels(two, one)
    halves = kl_div(p, q, log_target=True, reduction="batchmean"), kl_div(q, p, log_target=True, reduction="batchmean")
    return co2.alpha * 0.5 * sum(halves)


contrast = NTXentLoss()
plain = gradient(contrast(out0, out1))
for alpha in (1.0, 1000.0):
    co2 = CO2Regularizer(alpha=alpha)
    value = co2(out0, out1)
    added = (gradient(contrast(out0, out1) + value) - plain).norm().item()
    meant = gradient(by_hand(co2)).norm().item()
    print(f"alpha {alpha:.0f}: value {value:.2f}, adds a gradient of norm {added:.4f}; computed by hand {meant:.4f}")
    assert torch.allclose(value, by_hand(co2)) and meant > 0.1
    assert added == 0 and not value.requires_grad, "the regularizer has a gradient: this has changed"
PY
