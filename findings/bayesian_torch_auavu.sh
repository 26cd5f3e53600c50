#!/usr/bin/env bash
# bayesian-torch 0.5.0: AUAvULoss raises for every input, and AvULoss for its second kind of uncertainty.
#
# Expected: AUAvULoss is a loss, to be called with logits and labels, "without the need for optimal uncertainty threshold"; and both
# losses take "the type of uncertainty to be used", 0 or 1.
# Seen: AUAvULoss gives its tensors to a function of scikit-learn, which refuses those with a gradient; of those without one it returns
# a float, of which PyTorch's logarithm is refused. With type=1, AvULoss takes the mean over the examples for that over Monte Carlo
# samples, and fails on the single number that is left; logits with a dimension for the samples fail before.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 bayesian-torch==0.5.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from bayesian_torch.utils.avuc_loss import AUAvULoss, AvULoss

torch.manual_seed(0)
logits, labels = torch.randn(20, 3, requires_grad=True), torch.randint(3, (20,))
print("AvULoss:", AvULoss()(logits, labels, 0.5).item())
cases = {
    "AUAvULoss": lambda: AUAvULoss()(logits, labels),
    "AUAvULoss without a gradient": lambda: AUAvULoss()(logits.detach(), labels),
    "AUAvULoss, type=1": lambda: AUAvULoss()(logits, labels, type=1),
    "AvULoss, type=1": lambda: AvULoss()(logits, labels, 0.5, type=1),
    "AvULoss, type=1, 5 samples": lambda: AvULoss()(torch.randn(5, 20, 3), labels, 0.5, type=1),
}
for name, case in cases.items():
    try:
        case()
    except (RuntimeError, TypeError, IndexError) as error:
        print(f"{name}: {type(error).__name__}: {error}")
    else:
        raise AssertionError(f"{name} works: this has changed")
PY
