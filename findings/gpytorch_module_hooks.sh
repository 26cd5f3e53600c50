#!/usr/bin/env bash
# gpytorch 1.15.2: forward hooks that are registered on a gpytorch.Module are kept and never run.
#
# Expected: gpytorch.Module is an nn.Module, so hooks registered by register_forward_pre_hook and register_forward_hook run when it
# is called, as they do on the nn.Module inside it; or registering them is an error.
# Seen: gpytorch.Module has a __call__ of its own, which calls forward directly. Both registrations return a handle, and neither
# hook runs. Hooks for all modules (torch.nn.modules.module.register_module_forward_hook) miss it too. Tools that trace, time or
# change a model by hooks see nothing of its outermost module, without a word.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 gpytorch==1.15.2
env/bin/python -W ignore - <<'PY'
import gpytorch
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook


class Features(gpytorch.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)

    def forward(self, x):
        return self.net(x)


ran = []
model = Features()
model.register_forward_pre_hook(lambda module, args: ran.append("before the outer module"))
model.register_forward_hook(lambda module, args, output: ran.append("after the outer module"))
model.net.register_forward_hook(lambda module, args, output: ran.append("after the inner module"))
everywhere = register_module_forward_hook(lambda module, args, output: ran.append(f"all: {type(module).__name__}"))
model(torch.ones(3, 4))
everywhere.remove()
print("hooks on the outer module:", len(model._forward_pre_hooks), "before,", len(model._forward_hooks), "after")
print("ran:", ran)
assert model._forward_pre_hooks and model._forward_hooks
assert ran == ["all: Linear", "after the inner module"], "the outer hooks run now: this has changed"
PY
