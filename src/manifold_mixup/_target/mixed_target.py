"""The one target algebra: what a mixed batch should have answered."""

from typing import Any

from torch import Tensor

from manifold_mixup._plan import MixPlan
from manifold_mixup._target import labels as _labels
from manifold_mixup._target.arguments import Keys
from manifold_mixup._target.losses import Criterion
from manifold_mixup._target.rule import Rule, Targets, refuse_twice, require_rows


class MixedTarget:
    """The targets of a batch, mixed as its hidden states were.

    A target is a unit: the loss is ``lam`` times that of the examples' own targets plus ``1 - lam``
    times that of their partners', each with all that belongs to it. It is right whatever the target
    means. The target itself is interpolated (paper, Eq. 1) only if it is one floating point tensor
    and the criterion one of PyTorch's own for which that is the same, or regression proper: cross-
    entropy of probabilities, binary cross-entropy, mean squared and absolute error, Huber, Poisson
    and Kullback-Leibler loss, with a reduction.

    Args:
        y: a tensor with the batch at dimension 0, or a tuple, list, dict or dataclass of such.
        plan: what the forward pass mixed; None for nothing.
        targets: ``"mix"`` to interpolate every floating tensor of the target, whatever the
            criterion; ``"ends"`` to interpolate none.
        with_target: names or positions of further arguments of the criterion that come from the
            data, such as weights and lengths of examples. They are mixed like the target. The
            output is 0, the target 1.
        with_output: those that the model computed, which stay as they are.
        whole: those that do not have the batch at dimension 0, even if they have as many rows.

    Raises:
        TypeError: ``y`` holds something that is neither a tensor nor None.
        ValueError: a tensor of ``y`` has another batch size than the plan, or an argument is
            declared twice.

    Examples:
        >>> import torch
        >>> plan = MixPlan("fc", lam=0.75, perm=torch.tensor([1, 0]))
        >>> MixedTarget(torch.tensor([0, 2]), plan).soft(3)
        tensor([[0.7500, 0.0000, 0.2500],
                [0.2500, 0.0000, 0.7500]])
    """

    def __init__(
        self,
        y: Any,
        plan: MixPlan | None,
        *,
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
    ) -> None:
        self.y = y
        self.plan = plan
        self._rule = Rule(targets, with_target, with_output, whole)
        if plan is not None:
            require_rows(y, plan.batch)

    def __repr__(self) -> str:
        if self.plan is None:
            return "<MixedTarget, not mixed>"
        return f"<MixedTarget of {self.plan!r}>"

    def _repr_html_(self) -> str:
        return _labels.as_html(self.y, self.plan, repr(self).strip("<>"))

    def loss(self, criterion: Criterion, output: Any, *more: Any, **options: Any) -> Any:
        """Return the loss of the output of a mixed pass.

        Args:
            criterion: called as ``criterion(output, target, *more, **options)``, once or for both
                ends. It must not write into what it is given. With a λ per sample it must give a
                loss per sample, unless the target itself is mixed: by a ``reduction`` attribute or
                argument, or because it does not reduce.
            output: what the model returned.
            more: further arguments. Of PyTorch's own losses it is known what belongs to the target;
                what else has the batch at dimension 0 has to be declared.
            options: further keyword arguments, likewise.

        Raises:
            TypeError: a λ per sample meets a criterion without a loss per sample, or the criterion
                gives no tensor, or beside it a number that differs for the partners' targets.
            ValueError: an argument has the batch at dimension 0, and nobody said whether it belongs
                to the target.
            RuntimeError: the criterion writes in place into what it is given, or changes its
                buffers.
        """
        call = self._rule.arguments(criterion).around(self.y, output, more, options)
        return self._rule.loss(criterion, call, self.plan)

    def soft(self, num_classes: int) -> Tensor:
        """Return the soft labels.

        Args:
            num_classes: the number of classes.

        Returns:
            Of class indices ``(batch, *positions)`` the mixed one-hot labels, float32 ``(batch,
            num_classes, *positions)`` as `torch.nn.CrossEntropyLoss` takes them; of labels that are
            soft already, or several at once, their mix. With ``targets="mix"`` the mix of any
            floating point target.

        Raises:
            TypeError: the target is no single tensor, or is not to be mixed.
            ValueError: a class lies outside 0 to ``num_classes`` - 1, or floating point targets are
                no labels.
        """
        refuse_twice(self.plan)
        y = self._single("soft")
        if y.is_floating_point() and self._rule.targets == "ends":
            raise TypeError("targets='ends' means that there is no mean of two targets.")
        return _labels.soft(y, self.plan, num_classes, asked=self._rule.targets == "mix")

    def accuracy(self, output: Tensor, ignore_index: int = -100) -> Tensor:
        """Return the accuracy weighted by λ: what the prediction shares with the mixed target.

        An example whose prediction is its own class counts λ, one whose prediction is its
        partner's class 1-λ, one where both agree 1. It is 1 only where both classes are the same;
        without mixing it is the usual accuracy.

        Args:
            output: scores, ``(batch, classes, *positions)``.
            ignore_index: class of positions that do not count.

        Returns:
            A scalar in 0 to 1, on the device of ``output``. Of soft labels the most likely class
            counts. On another device than the CPU, where nothing waits for it, NaN in place of the
            error about values.

        Raises:
            TypeError: the target is no single tensor.
            ValueError: the shapes of output and target do not belong together, or values of the
                target are neither a class, ``ignore_index`` nor soft labels of one class.
        """
        refuse_twice(self.plan)
        return _labels.accuracy(self._single("accuracy"), self.plan, output, ignore_index)

    def _single(self, what: str) -> Tensor:
        if not isinstance(self.y, Tensor):
            raise TypeError(
                f"{what} needs one tensor of targets, but there is a {type(self.y).__name__}. Ask "
                f"for one of them: MixedTarget(y[...], mixed.plan).{what}(...)."
            )
        return self.y
