#!/usr/bin/env bash
# bayesian-torch 0.5.0: after MOPED, the prior moves along with the weights that are trained, and so does the pretrained model.
#
# Expected: MOPED(model, det_model, ...) sets the means of the priors to pretrained weights, which then stay, as priors do; the
# divergence from the prior keeps the posterior near them.
# Seen: prior, posterior and the pretrained layer share one storage. Optimizers write in place, so that after each step the means of
# the priors are those of the posterior bit for bit, their distance is always 0, and the pretrained model has the new weights too.
# The other way, moped_enable in dnn_to_bnn, "i.e. setting the prior", copies the weights, but leaves the prior where it was, at 0.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 bayesian-torch==0.5.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from bayesian_torch.layers import LinearReparameterization
from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn
from bayesian_torch.utils.util import MOPED

torch.manual_seed(0)
pretrained = torch.nn.Sequential(torch.nn.Linear(4, 3))
torch.save(pretrained.state_dict(), "pretrained.pt")
weight = pretrained[0].weight.detach().clone()
model = torch.nn.Sequential(LinearReparameterization(4, 3))
MOPED(model, pretrained, "pretrained.pt", delta=0.1)
layer = model[0]
assert torch.equal(layer.prior_weight_mu, weight)

converted = torch.nn.Sequential(torch.nn.Linear(4, 3))
converted.load_state_dict(pretrained.state_dict())
settings = {"prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -3.0, "type": "Reparameterization"}
dnn_to_bnn(converted, {**settings, "moped_enable": True, "moped_delta": 0.1})
assert torch.equal(converted[0].mu_weight, weight)

optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for _ in range(5):
    optimizer.zero_grad()
    output, _ = layer(torch.randn(64, 4))
    output.pow(2).mean().backward()
    optimizer.step()
moved = (layer.mu_weight - weight).norm().item()
prior = (layer.prior_weight_mu - weight).norm().item()
between = (layer.mu_weight - layer.prior_weight_mu).norm().item()
source = (pretrained[0].weight - weight).norm().item()
print(f"distance from the pretrained weights: posterior {moved:.4f}, prior {prior:.4f}, the pretrained model itself {source:.4f}")
print(f"distance of the posterior from its prior {between:.4f}, of the biases {(layer.mu_bias - layer.prior_bias_mu).norm().item():.4f}")
print(f"dnn_to_bnn: largest mean of the prior {converted[0].prior_weight_mu.abs().max().item():.4f}, of the weights {weight.max().item():.4f}")
assert moved > 0.1
assert not converted[0].prior_weight_mu.any(), "dnn_to_bnn sets the prior: this has changed"
assert between == 0 and prior == moved == source, "the prior stays: this has changed"
PY
