#!/usr/bin/env bash
# bayesian-torch 0.5.0: the KL divergence of a layer is a mean over its weights, and prior_variance is a standard deviation.
#
# Expected: kl_div "calculates kl divergence between two gaussians (Q || P)" of all weights of a layer: the sum over its weights, as
# the evidence lower bound needs it, and prior_variance is the "variance of the prior".
# Seen: the mean over the weights, so that a layer of 10,000 weights counts as much as one of 100: in the loss that the
# documentation gives, the divergence divided by the batch size, the prior weighs less by the number of weights. And prior_variance=4
# gives the divergence from a prior with the standard deviation 4, not 2.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 bayesian-torch==0.5.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from bayesian_torch.layers import LinearReparameterization
from torch.distributions import Normal, kl_divergence

returned = {}
for variance in (1.0, 4.0):
    for inputs in (10, 1000):
        torch.manual_seed(0)
        layer = LinearReparameterization(inputs, 10, prior_variance=variance, bias=False)
        posterior = Normal(layer.mu_weight, torch.nn.functional.softplus(layer.rho_weight))
        exact = kl_divergence(posterior, Normal(0.0, variance**0.5)).sum().item()
        returned[variance, inputs] = layer.kl_loss().item()
        print(f"prior_variance={variance}, {inputs * 10} weights: divergence {exact:.2f}, kl_loss {returned[variance, inputs]:.4f}")
        mean = kl_divergence(posterior, Normal(0.0, variance)).mean().item()
        assert abs(returned[variance, inputs] - mean) < 1e-4, "not a mean, or not a deviation: this has changed"
        assert exact > 50 * returned[variance, inputs]
PY
