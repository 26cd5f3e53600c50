"""A criterion that mixes the targets as the forward pass mixed the hidden states."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from manifold_mixup._module_hooks import COMPILE_FIRST
from manifold_mixup._plan import MixPlan
from manifold_mixup._target.arguments import Keys
from manifold_mixup._target.losses import Criterion
from manifold_mixup._target.rule import Rule, Targets


class Made(Protocol):
    """Where an output comes from, as far as its targets are concerned."""

    learns: bool
    """Whether gradients of the output can reach the model."""

    @property
    def plan(self) -> MixPlan | None:
        """By what it was mixed; None for nothing."""

    def claim(self) -> None:
        """Note that the targets of the output were mixed."""

    def require_own(self, output: Any) -> None:
        """Raise ValueError if a container holds something that no pass of the model returned."""


class MixedCriterion(nn.Module):
    """Call as the criterion inside, with the output and the target; see `ManifoldMixup.wrap`.

    Args:
        criterion: the plain one.
        behind: returns where an output comes from, given its targets and the output.
        targets: as of `ManifoldMixup.wrap`, like the three after it.
        with_target: further arguments of the criterion that are mixed with the target.
        with_output: those that the model computed.
        whole: those that have no batch.
    """

    def __init__(
        self,
        criterion: Criterion,
        behind: Callable[[Any, Any], Made],
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self._behind = behind
        self._said = (targets, with_target, with_output, whole)
        self._rule = Rule(*self._said)
        self._rule.arguments(criterion)  # so that a wrong name is told here
        self._looked = False
        # Compiled code has no graph to follow from the output to its pass.
        self._mixed = torch.compiler.disable(self._loss, reason=COMPILE_FIRST)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return the loss of the output against the targets, mixed as its forward pass was."""
        return self._mixed(args, options)

    def _loss(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        arguments = self._rule.arguments(self.criterion)
        call = arguments.call(args, options)
        form = arguments.form(call)
        y = None if form.target is None else call[form.target]
        made = [key for key in form.targets + form.weights if _is_made(call[key])]
        if made:  # it may come from the mixed pass itself
            y = {str(form.target): y, **{str(key): call[key] for key in made}}
        more = [call[key] for key in form.outputs]
        outputs = (call[form.output], *more) if more else call[form.output]
        source = self._behind(y, outputs)
        if source.plan is not None and source.learns and not isinstance(outputs, Tensor):
            source.require_own(call[form.output])
        look = source.plan is not None and not self._looked
        self._looked |= look
        checked = source.claim if source.learns else None
        return self._rule.loss(self.criterion, call, source.plan, checked=checked, look=look)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        # A copy asks a copy of its ManifoldMixup, which is attached to nothing, so that it is the
        # plain criterion.
        return MixedCriterion, (self.criterion, self._behind, *self._said)


def _is_made(value: Any) -> bool:
    """Return whether a value was computed by something that learns."""
    return isinstance(value, Tensor) and value.grad_fn is not None
