"""Test the library as the README describes it, in an environment with PyTorch and nothing else."""

import importlib.util
import shutil
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import torch
from torch import nn

import manifold_mixup
from manifold_mixup import ManifoldMixup, find_layers

for name in ("numpy", "tyro", "rich", "timm", "pytest"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed, so this test is invalid"
assert Path(sys.prefix) in Path(manifold_mixup.__file__).parents, manifold_mixup.__file__
assert any(file.name == "py.typed" for file in files("manifold-mixup") or [])

model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
    nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip
x, y = torch.rand(16, 3, 8, 8), torch.arange(16) % 10
mixup = ManifoldMixup(model, example=x, seed=0)
criterion = mixup.wrap(nn.CrossEntropyLoss())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
assert mixup.plan is not None
mixup.assert_verified(x)
mixup.remove()
print(find_layers(model, x))

command = shutil.which("manifold-mixup", path=Path(sys.executable).parent)
assert command, "the command is not installed"
done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
assert done.returncode == 2, done
assert "pip install 'manifold-mixup[lab]'" in done.stderr, done.stderr
