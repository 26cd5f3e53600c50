"""Find out which run of a shared module is under way, also when a checkpoint recomputes it."""

from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from manifold_mixup import _autograd
from manifold_mixup._attach.passes import Passes
from manifold_mixup._callers import callers
from manifold_mixup._layers import module_name
from manifold_mixup._module_hooks import Hook


@dataclass(frozen=True, repr=False, match_args=False)
class Start:
    """The moment at which a run of a module began.

    Attributes:
        number: sequence number of the next autograd node.
        recorded: whether autograd recorded the run.
        region: number of the first run in the same call of an activation checkpoint; otherwise its
            own.
    """

    number: int
    recorded: bool
    region: int


class RunCounter(Hook):
    """A forward pre-hook on a shared module that counts its runs within a pass, from 0.

    A checkpoint recomputes the runs of one call in their order, but the calls in any order. Which
    of them it is, the backward node tells that needs the recomputed values: their autograd nodes
    were made after that call began.

    Attributes:
        number: the run under way, or the latest.
    """

    def __init__(self, owner: object, module: str, passes: Passes) -> None:
        self.owner, self.module, self.passes = owner, module, passes
        self.number = 0
        self._recomputation: tuple[int, int | None] | None = None
        self.run_eagerly = torch.compiler.disable(self._run_eagerly)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Count; in compiled code, the hooks on the layer do."""
        if not torch.compiler.is_compiling():
            self.run_eagerly()

    def _run_eagerly(self) -> None:
        running = self.passes.current()
        plan = None if running is None else running.plan
        if running is None or plan is None or module_name(plan.layer) != self.module:
            return  # nothing is mixed at a run of this module
        starts = running.starts.setdefault(self.module, [])
        number = _autograd.running_number()
        if number is None or self.passes.recomputed() is None:
            self.number = len(starts)
            starts.append(self._start(starts, running.checkpoints))
        elif _autograd.recomputation() == self._recomputation:
            self.number += 1
        else:
            self._recomputation = _autograd.recomputation()
            self.number = _first_recomputed(starts, number)

    def _start(self, starts: list[Start], checkpoints: dict[str, FrameType | None]) -> Start:
        frame = _checkpoint_around(self.module)
        same = frame is not None and frame is checkpoints.get(self.module)
        checkpoints[self.module] = frame
        region = starts[-1].region if same else len(starts)
        return Start(_autograd.next_number(), torch.is_grad_enabled(), region)


def _first_recomputed(starts: list[Start], number: int) -> int:
    """Return the first run in the call of a checkpoint to which a backward node belongs.

    Args:
        starts: the runs of the pass.
        number: sequence number of the node: that of the call itself if it is reentrant, and
            otherwise of a node inside it.
    """
    for run, start in enumerate(starts):
        if not start.recorded and start.number == number + 1:
            return run
    before = [start.region for start in starts if start.recorded and start.number <= number]
    # A node before all runs needs none of their results.
    return before[-1] if before else 0


def _checkpoint_around(module: str) -> FrameType | None:
    """Return the frame of the activation checkpoint that is calling; None without one.

    Raises:
        RuntimeError: a checkpoint is inside another.
    """
    found: FrameType | None = None
    for frame in callers():
        code = frame.f_code
        if code.co_filename == checkpoint.__file__ and code.co_name == "checkpoint":
            if found is not None:
                raise RuntimeError(
                    f"runs of {module!r} are layers to mix at, but in nested checkpoints it cannot "
                    f"be told which of its runs is recomputed. Remove one of the checkpoints, or "
                    f"mix at layers that run once."
                )
            found = frame
    return found
