"""Run a model for the proof: always from the same state, without randomness, on a few examples."""

import pickle
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from manifold_mixup._dry_run.neutral import Neutral, is_random
from manifold_mixup._dry_run.side_effects import without_side_effects
from manifold_mixup._dry_run.stage import Stage
from manifold_mixup._inputs import named_inputs
from manifold_mixup._mix import is_continuous
from manifold_mixup._outputs import is_named
from manifold_mixup._plan import MixPlan
from manifold_mixup._proof.draws import same_draws
from manifold_mixup._proof.example_padding import ExamplePadding
from manifold_mixup._proof.factors import Products
from manifold_mixup._proof.gradients import backward
from manifold_mixup._proof.graphs import Graphs
from manifold_mixup._proof.redraw import Examples
from manifold_mixup._tree import leaves

RunModel = Callable[
    [nn.Module, tuple[Any, ...], dict[str, Any], MixPlan | None], AbstractContextManager[Any]
]


class Hooks(Protocol):
    """Hooks for a single pass."""

    def put_on(self, model: nn.Module) -> None:
        """Register on a model."""


class Bench:
    """A model that is set up to run.

    Args:
        stage: the model, on stand-ins.
        examples: the examples that it is run on.
        run: see `manifold_mixup._proof.prove.prove`.
        outputs: paths of the outputs that the loss reads; None means all outputs.
        mask: name of the padding mask, if there is one.
        thin: whether large parameters are thin. If so, a test that is passed may stand for a weaker
            one that it includes, because what fails is tested again on another bench.
    """

    def __init__(
        self,
        stage: Stage,
        examples: Examples,
        run: RunModel,
        outputs: Sequence[str] | None,
        mask: str | None,
        *,
        thin: bool = False,
    ) -> None:
        self.stage = stage
        self.model = stage.model
        self.padding = ExamplePadding(self.model, examples, mask)
        self.outputs = outputs
        self.examples = examples
        self.of_graphs = isinstance(examples, Graphs)
        self.run = run
        self.thin = thin
        self.devices = {
            tensor.device.type for _, tensor in named_inputs(self.model, *examples.inputs)
        }
        self.neutral = Neutral()
        self.products = Products(self.model.parameters())
        self.extra_context: AbstractContextManager[Any] = nullcontext()  # around each pass
        self.drew_outside_torch = False  # whether Python's or NumPy's generator was used

    def unmixed(self, perm: Tensor | None = None) -> dict[str, Tensor]:
        """Return the outputs by path of a pass that mixes nothing, on reordered examples."""
        with self.run_pass(perm, None) as outputs:
            # Without the graphs, which would keep every activation of the pass.
            return {path: tensor.detach() for path, tensor in outputs.items()}

    @contextmanager
    def run_pass(
        self,
        perm: Tensor | None,
        plan: MixPlan | None,
        hooks: Hooks | None = None,
        call: Any = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Run the model and yield its outputs by path.

        Args:
            perm: the examples to run it on, in this order; None takes all.
            plan: what to mix; None mixes nothing.
            hooks: registered for this pass.
            call: other arguments, instead of the examples.
        """
        # Undo what the pass before kept (statistics, power iterations), which may have a new shape.
        self.stage.reset()
        args, kwargs = call or self.examples.reordered(self.model, perm)
        isolated = self.stage.isolated(self._compute)
        with ExitStack() as stack:
            stack.enter_context(without_side_effects(self.model))
            if hooks is not None:
                hooks.put_on(self.model)
            stack.enter_context(_full_precision(self.devices))
            stack.callback(isolated.require)
            stack.enter_context(isolated)
            stack.enter_context(self.extra_context)
            stack.enter_context(same_draws())
            before = _generators()
            output = stack.enter_context(self.run(self.model, args, kwargs, plan))
            self.drew_outside_torch |= _generators() != before
            yield {
                path: tensor
                for path, tensor in leaves(output)
                if is_continuous(tensor) and is_named(path, self.outputs)
            }

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Compute an operator in another way: if it is random, or a product with a thin matrix."""
        if is_random(func):
            return self.neutral.__torch_dispatch__(func, (), args, kwargs)
        return self.products(func, args, kwargs)


def plan_at(layer: str, lam: float, perm: Tensor) -> MixPlan:
    """Return a plan that mixes at a layer."""
    return MixPlan(layer, torch.tensor(lam, dtype=torch.float32, device="cpu"), perm)


def backward_from(outputs: Sequence[Tensor]) -> None:
    """Run backward to all leaves; reentrant checkpoints support nothing else."""
    ends = [_real(output) for output in outputs if output.requires_grad]
    # Asymmetric weights, because the outputs of a softmax sum to a constant.
    weights = [torch.linspace(1, 2, end.numel()).sin().view_as(end).to(end) for end in ends]
    if ends:
        backward(ends, weights)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _generators() -> tuple[Any, bytes]:
    """Return the state of Python's and NumPy's generators."""
    numpy = sys.modules.get("numpy")
    # The state is a dict of arrays, which cannot be compared at once.
    state = b"" if numpy is None else pickle.dumps(numpy.random.get_state(legacy=False))
    return random.getstate(), state


@contextmanager
def _full_precision(devices: set[str]) -> Iterator[None]:
    """Turn off autocast, which the caller may have enabled."""
    with ExitStack() as stack:
        for device in devices:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
