#!/usr/bin/env bash
# PyTorch Geometric 2.8.1: GIN with norm="graph_norm" mixes the graphs of a batch, although it is given the graph of each node.
#
# Expected: GraphNorm takes its mean and variance over the nodes of each graph, so with batch= the states of a graph do not depend
# on the graphs that it is batched with, as in GCN and GraphSAGE with the same norm.
# Seen: GCN and GraphSAGE pass the batch vector to their norms. GIN does between its convolutions, but inside each convolution is an
# MLP with a norm of the same kind, which is called without it and takes all nodes of the batch for one graph. The states of a
# graph change by far more than rounding if the features of another one do.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torch-geometric==2.8.1
env/bin/python -W ignore - <<'PY'
import torch
from torch_geometric.nn import GCN, GIN, GraphSAGE

graph = torch.tensor([0, 0, 0, 1, 1, 1, 1])
edges = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [1, 2, 0, 4, 5, 6, 3]])
x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
other = x.clone()
other[3:] *= 3  # the features of the second graph alone

changes = {}
for kind in (GCN, GraphSAGE, GIN):
    torch.manual_seed(0)
    model = kind(4, 8, num_layers=2, norm="graph_norm")
    first, second = (model(given, edges, batch=graph)[:3] for given in (x, other))
    changes[kind.__name__] = (first - second).abs().max().item()
    print(f"{kind.__name__}: the states of the first graph change by {changes[kind.__name__]:.2g}")
assert changes["GCN"] < 1e-6 and changes["GraphSAGE"] < 1e-6
assert changes["GIN"] > 1e-3, "the graphs are apart now: this has changed"
PY
