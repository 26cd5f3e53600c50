# %% [markdown]
# # First steps with Manifold Mixup
#
# Two spirals, a small network, and a picture of the effect of mixing hidden states. It takes less
# than a minute on a CPU and needs `pip install . matplotlib` in a copy of the repository.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, find_layers


def spirals(count, noise, seed):
    """Return points (2 * count, 2) on two intertwined spirals, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    along = torch.rand(2, count, generator=generator).sqrt() * 3 * math.pi
    turned = along + math.pi * torch.arange(2)[:, None]
    points = torch.stack([along * turned.cos(), along * turned.sin()], dim=-1)
    points = points + noise * torch.randn(points.shape, generator=generator)
    return points.reshape(-1, 2) / 10, torch.arange(2).repeat_interleave(count)


def build():
    """Return a perceptron whose second block has two output units."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)),
        nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 2)),
    )


x, y = spirals(count=100, noise=0.4, seed=0)
x_test, y_test = spirals(count=1000, noise=0.4, seed=1)

# %% [markdown]
# ## Which layers can be mixed?
#
# A layer can be mixed if the output depends on the input only through this layer. `find_layers`
# lists every module of a forward pass. `ManifoldMixup(model, example=x)` chooses the layers with a
# star.

# %%
find_layers(build(), x)

# %% [markdown]
# ## Train with and without mixing
#
# Two lines are new: one attaches the mixing, the other wraps the criterion. The layer of two units
# is mixed, as in the paper's Figure 1.


# %%
def train(mixing, steps):
    """Train on the spirals, and return the network in eval mode."""
    model, criterion = build(), nn.CrossEntropyLoss()
    if mixing:
        mixup = ManifoldMixup(model, layers=["1"], alpha=2.0, seed=0)  # new
        criterion = mixup.wrap(criterion)  # new
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


STEPS = 1500
networks = {"no mixup": train(False, STEPS), "manifold mixup": train(True, STEPS)}
for name, network in networks.items():
    with torch.no_grad():
        output = network(x_test)
    error = (output.argmax(1) != y_test).float().mean()
    nll = nn.functional.cross_entropy(output, y_test)
    print(f"{name:14}  test error {100 * error:5.2f} %   test loss {nll:.3f}")

# %% [markdown]
# ## What one step mixed
#
# If several layers are eligible, each step mixes one of them. The plan of the latest training pass
# has the layer, λ, and the partner of each example. The targets are mixed with the same plan.

# %%
model = build()
mixup = ManifoldMixup(model, layers=["input", "0", "1"], alpha=2.0, seed=0)
output = model(x)
print(mixup.plan)
mixup.target(y, output)

# %% [markdown]
# ## A numerical proof
#
# With λ = 0, every example becomes its partner, so mixing at a valid layer permutes the outputs.
# `verify` tests this for each layer.

# %%
mixup.verify(x)

# %% [markdown]
# ## The decision boundaries
#
# Between the arms, the network trained with mixing is less confident. This is one seed;
# `results/figures/figure-1.md` has numbers for five seeds.

# %%
side = torch.linspace(-1.3, 1.3, 200)
plane = torch.cartesian_prod(side, side)
figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
for axis, (name, network) in zip(axes, networks.items(), strict=True):
    with torch.no_grad():
        sure = network(plane).softmax(1)[:, 1].reshape(200, 200).T
    axis.contourf(side, side, sure, levels=20, cmap="PuOr", vmin=0, vmax=1)
    axis.contour(side, side, sure, levels=[0.5], colors="black")
    axis.scatter(*x.T, c=y, s=18, cmap="PuOr", edgecolors="white", linewidths=0.7)
    axis.set(title=name, xlabel="x₁", ylabel="x₂", aspect="equal")
plt.show()
