"""Record whether gradient reaches the output of a layer."""

from typing import Any

from torch import Tensor, nn

from manifold_mixup._layers import ALL_RUNS, is_input, named_layers, split_run
from manifold_mixup._module_hooks import hook_after
from manifold_mixup._tree import leaves


class GradientWatch:
    """A forward hook that records whether gradient reaches the output of a layer."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.module, self.run = split_run(layer)
        self.ran = 0
        self.watching = self.reached = False

    def put_on(self, model: nn.Module) -> None:
        """Register as the first hook of the layer, which sees the state before it is mixed."""
        if not is_input(self.layer):
            hook_after(named_layers(model)[self.module], self, prepend=True)

    @property
    def lost(self) -> bool:
        """Whether the output requires a gradient but receives none."""
        return self.watching and not self.reached

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        run, self.ran = str(self.ran), self.ran + 1
        if self.run not in ("", ALL_RUNS, run):
            return
        for _, tensor in leaves(output):
            # PyTorch up to 2.14 may crash if the graph of a view is not brought up to date first.
            if tensor.requires_grad and (tensor.is_leaf or tensor.grad_fn is not None):
                self.watching = True
                tensor.register_hook(self._note)

    def _note(self, gradient: Tensor | None) -> None:
        # Unused results of an operator with several results, such as svd, get None.
        self.reached |= gradient is not None and bool(gradient.any())
