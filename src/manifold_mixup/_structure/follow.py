"""Record a pass that runs the same operators as an earlier one, with another batch size.

Only shapes can differ then, so that nothing else is recorded a second time.
"""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._mix import is_continuous
from manifold_mixup._structure.operation import Operation, signature_of
from manifold_mixup._structure.record import Recorder, run_below
from manifold_mixup._structure.recorded import Call, Leaf, Trace


class Diverged(RuntimeError):
    """A pass ran other operators or other layers than an earlier one."""


class Follower(Recorder):
    """Records the shapes of a pass that does what another did.

    Args:
        reference: the recording of the other pass.
        batch: number of examples.
        mode: the dispatch mode to which model and arguments belong.

    Attributes:
        diverged: whether the pass did something else. The model's code may have caught the error.
    """

    def __init__(self, reference: Trace, batch: int, mode: Any) -> None:
        super().__init__(batch, mode)
        self.reference = reference
        self.diverged = False

    def require_same(self) -> None:
        """Raise Diverged if this pass did less than the other did."""
        counts = [(trace.steps, len(trace.calls)) for trace in (self.reference, self.trace)]
        if self.diverged or counts[0] != counts[1]:
            self._diverge()

    def _diverge(self) -> None:
        self.diverged = True
        raise Diverged

    def outside(self) -> Any:
        """Return a context in which nothing is noticed: it was the first time."""
        return nullcontext()

    def begin(self, inputs: Iterator[tuple[str, Tensor]], constants: Iterable[Tensor]) -> None:
        """Note the shapes of the inputs."""
        self.trace.inputs = [self._leaf(name, tensor) for name, tensor in inputs]

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        step, expected = self.trace.steps, self.reference.functions
        if self.diverged or step >= len(expected) or expected[step] is not func:
            self._diverge()
        result = run_below(self.quick, func, args, kwargs)
        if signature_of(func).can_interact:
            self._note_interaction(Operation(func, args, kwargs), result)
        self.trace.steps += 1
        return result

    def _ranged(self, index: Tensor) -> bool:
        return self.trace.steps in self.reference.ranged

    def _masks(self, call: Call) -> list[str]:
        index = len(self.trace.calls) - 1
        if index >= len(self.reference.calls) or self.reference.calls[index].layer != call.layer:
            self._diverge()
        return [leaf.path for leaf in self.reference.calls[index].masks]

    def _in_checkpoint(self) -> bool:
        return False  # the first recording says it

    def _leaf(self, path: str, tensor: Tensor) -> Leaf:
        with torch._C.DisableTorchFunction():
            boolean = tensor.dtype == torch.bool
            return Leaf(path, tuple(tensor.shape), is_continuous(tensor), -1, boolean)

    def _node(self, tensor: Tensor) -> int:
        return -1  # the same as in the other pass
