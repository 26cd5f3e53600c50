"""MixedCriterion: a criterion that mixes targets the way the forward pass was mixed."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd
from manifold_mixup._module_hooks import COMPILE_FIRST
from manifold_mixup._plan import MixPlan
from manifold_mixup._target import classes
from manifold_mixup._target.arguments import Keys
from manifold_mixup._target.dense import Dense
from manifold_mixup._target.losses import Criterion
from manifold_mixup._target.rule import Rule, Targets, refuse_twice


class OutputSource(Protocol):
    """The source of an output, as far as its targets are concerned."""

    learns: bool
    """Whether gradients of the output can reach the model."""
    looked_at: bool
    """Whether it is looked for what should be mixed with the output and is not."""
    batch_dim: int
    """The dimension of outputs and targets that holds the batch."""

    @property
    def plan(self) -> MixPlan | None:
        """The plan of the forward pass; None if it was not mixed."""

    def claim(self) -> None:
        """Note that the targets of the output were mixed."""

    def require_batch(self, output: Any, target: Any) -> None:
        """Raise ValueError if the batch of a target cannot be told, as that of the output moved."""

    def note_loss(self, begin: int, end: int) -> None:
        """Note the numbers of the nodes that a wrapped criterion made."""

    def require_returned(self, output: Any) -> None:
        """Raise ValueError if a container holds a tensor that no pass of the model returned."""

    def plain_in(self, output: Any) -> tuple[Tensor, ...]:
        """List the tensors in an output that are the examples' own, such as a mask."""


class MixedCriterion(nn.Module):
    """Call it like the wrapped criterion, with output and target; see `ManifoldMixup.wrap`.

    Args:
        criterion: the plain criterion.
        source_of: returns the source of an output, given its targets and the output.
        targets: see `ManifoldMixup.wrap`, also for the next three.
        with_target: further arguments of the criterion that are mixed with the target.
        with_output: arguments that the model computed.
        whole: arguments without a batch dimension.
        dense: whether the target has positions.
    """

    def __init__(
        self,
        criterion: Criterion,
        source_of: Callable[[Any, Any], OutputSource],
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
        dense: Dense = None,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self._source_of = source_of
        self._options = (targets, with_target, with_output, whole, dense)
        self._rule = Rule(*self._options)
        self._rule.arguments(criterion)  # raises here if a declared name is wrong
        self._comparisons_checked = False
        self._uneven = False  # whether weights of the examples were warned of
        # Compiled code has no graph to follow from the output to its pass.
        self._mixed = torch.compiler.disable(self._loss, reason=COMPILE_FIRST)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return the loss of the output, with targets mixed the way its forward pass was."""
        if not torch.compiler.is_dynamo_compiling() and _autograd.compiler() is None:
            return self._loss(args, options)
        return self._mixed(args, options)

    def _loss(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        criterion, source = self.criterion, None
        usual = self._rule.undeclared and classes.cross_entropy_of(criterion, args, options)
        if usual:
            output, y = args
            source = self._source_of(y, output)
            plan = source.plan
            if plan is not None and y.ndim > 1:
                source.require_batch(output, y)
            if plan is not None and not source.batch_dim and classes.fits(usual, output, y, plan):
                refuse_twice(plan)
                if source.learns:
                    source.claim()
                if source.looked_at:
                    return self._watched(source, lambda: classes.loss(usual, output, y, plan))
                return classes.loss(usual, output, y, plan)
        return self._loss_of_any(args, options, source)

    def _loss_of_any(
        self, args: tuple[Any, ...], options: dict[str, Any], source: OutputSource | None
    ) -> Any:
        """Return the loss of any criterion.

        Args:
            args: the positional arguments of the call.
            options: its keyword arguments.
            source: the source of the output, if it is known.
        """
        criterion = self.criterion
        arguments = self._rule.arguments(criterion)
        call = arguments.call(args, options)
        roles = arguments.roles_of(call)
        y = None if roles.target is None else call[roles.target]
        beside = roles.targets + roles.weights
        with_graph = [key for key in beside if _has_graph(call[key])] if beside else ()
        if with_graph:  # the mixed pass itself may have computed them
            y = {str(roles.target): y, **{str(key): call[key] for key in with_graph}}
        output = outputs = call[roles.output]
        if roles.outputs:
            outputs = (output, *(call[key] for key in roles.outputs))
        if source is None:
            source = self._source_of(y, outputs)
        plan = source.plan
        kind = arguments.torch_loss
        if plan is not None and (kind is None or kind.name != "ctc_loss"):
            source.require_batch(output, y)
        if plan is not None and source.learns and not isinstance(outputs, Tensor):
            source.require_returned(output)
        plain = () if plan is None or isinstance(outputs, Tensor) else source.plain_in(outputs)
        check_comparisons = plan is not None and not self._comparisons_checked
        if check_comparisons:
            self._comparisons_checked = True
        checked = source.claim if source.learns else None

        def run() -> Any:
            return self._rule.loss(
                criterion,
                call,
                plan,
                batch_dim=source.batch_dim,
                checked=checked,
                check_comparisons=check_comparisons,
                plain=plain,
            )

        return self._watched(source, run) if plan is not None and source.looked_at else run()

    def _watched(self, source: OutputSource, run: Callable[[], Any]) -> Any:
        """Return the loss of a mixed output, of which is watched what else is done with both."""
        begin = _autograd.next_number()
        loss = run()
        source.note_loss(begin, _autograd.next_number())
        if source.learns and not self._uneven and source.plan is not None:
            from manifold_mixup._target.uneven import watch  # once a model is mixed

            watch(loss, source.plan.batch, source.batch_dim, self._warned_of_uneven)
        return loss

    def _warned_of_uneven(self) -> bool:
        """Return whether this criterion was warned of before."""
        before, self._uneven = self._uneven, True
        return before

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        # A copy refers to a copy of its ManifoldMixup, which is not attached to any model, so it
        # acts like the plain criterion.
        return MixedCriterion, (self.criterion, self._source_of, *self._options)


def _has_graph(value: Any) -> bool:
    """Return whether a value is a tensor with an autograd graph."""
    return isinstance(value, Tensor) and value.grad_fn is not None
