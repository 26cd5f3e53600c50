"""MixedTarget: the mixed targets of a batch, their loss, soft labels and accuracy."""

from typing import Any, Self

from torch import Tensor

from manifold_mixup._batch_first import batch_first, require_dimension
from manifold_mixup._plan import MixPlan
from manifold_mixup._target import labels as _labels
from manifold_mixup._target.arguments import Keys
from manifold_mixup._target.dense import Dense, shares_of
from manifold_mixup._target.interpolation import holds_batch
from manifold_mixup._target.losses import Criterion
from manifold_mixup._target.rule import Rule, Targets, refuse_twice, require_rows
from manifold_mixup._target.shares import Shares
from manifold_mixup._tree import leaves


class MixedTarget:
    """The targets of a batch, mixed the way its hidden states were.

    By default the losses are interpolated: ``lam`` times the loss with the examples' own targets
    plus ``1 - lam`` times the loss with their partners', each with the arguments that belong to it.
    This is correct for any kind of target. The target itself is interpolated (paper, Eq. 1) only if
    it is a single floating point tensor and the criterion is a PyTorch loss for which this is
    equivalent, or ordinary regression: cross-entropy of probabilities, binary cross-entropy, mean
    squared and absolute error, Huber, Poisson and Kullback-Leibler loss, with a reduction.

    Args:
        y: a tensor, or a tuple, list, dict or dataclass of tensors, with the batch at dimension
            ``batch_dim``, or at 0 if they have fewer dimensions.
        plan: the plan of the forward pass; None if it was not mixed.
        batch_dim: 1 for targets ``(time, batch, ...)``.
        targets: ``"mix"`` interpolates every floating tensor of the target, for any criterion;
            ``"ends"`` interpolates none.
        with_target: names or positions of further arguments of the criterion that come from the
            data, such as weights and lengths of examples. They are mixed like the target. The
            output is 0, the target 1.
        with_output: names or positions of arguments that the model computed; they are not mixed.
        whole: names or positions of arguments without a batch dimension, even if they have as many
            rows as the batch.
        dense: whether the target has positions, as a mask or a class per token has, or the
            dimensions that they are. If the state was mixed by position, each follows that of the
            state: a box selects it, and patches weigh it by the mean weight of the features there.
            None finds out.

    Raises:
        TypeError: ``y`` holds something that is neither a tensor nor None.
        ValueError: the batch size of a tensor in ``y`` differs from the plan's, or an argument is
            declared twice.

    Examples:
        >>> import torch
        >>> from manifold_mixup import MixPlan
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
        batch_dim: int = 0,
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
        dense: Dense = None,
    ) -> None:
        self.y = y
        self._plan = plan
        self._source: Any = None  # of the output that these targets belong to, in a forward pass
        self._rule = Rule(targets, with_target, with_output, whole, dense)
        self.batch_dim = batch_dim
        require_dimension(batch_dim)
        if plan is not None:
            self._require_rows(plan.batch)

    @property
    def plan(self) -> MixPlan | None:
        """The plan of the forward pass; None if it was not mixed."""
        self._claim_output()  # of one written by hand
        return self._plan

    def claiming(self, source: Any) -> Self:
        """Let these targets claim their output, unless only their accuracy is asked for."""
        self._source, self._claim_key = source, object()
        source.claim_provisionally(self._claim_key)
        return self

    def _claim_output(self) -> None:
        """Claim the output for good."""
        if self._source is not None:
            self._source.claim()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_source": None}  # a copy has no part in the forward pass

    def _require_rows(self, batch: int) -> None:
        """Raise unless ``y`` holds the batch; the loss decides where, because CTC's is in front."""
        if self.batch_dim and all(holds_batch(leaf.shape, batch, 0) for _, leaf in leaves(self.y)):
            return
        require_rows(self.y, batch, self.batch_dim)

    def __repr__(self) -> str:
        if self._plan is None:
            return "<MixedTarget, not mixed>"
        return f"<MixedTarget of {self._plan!r}>"

    def _repr_html_(self) -> str:
        return _labels.as_html(
            batch_first(self.y, self.batch_dim), self._plan, repr(self).strip("<>")
        )

    def loss(self, criterion: Criterion, output: Any, *more: Any, **options: Any) -> Any:
        """Return the loss for the output of a mixed pass.

        Args:
            criterion: called as ``criterion(output, target, *more, **options)``, once, or once for
                each of the two targets. It must not modify its arguments. With one λ per sample,
                and unless the target itself is mixed, it must return one loss per sample: through a
                ``reduction`` attribute or argument, or because it does not reduce. With a share of
                each position it must return one loss per position in the same way.
            output: what the model returned.
            more: further arguments. Unless the criterion is one of PyTorch's losses, those with the
                batch at dimension 0 must be declared.
            options: further keyword arguments, with the same rule.

        Raises:
            TypeError: the plan has one λ per sample, or a share of each position, but the criterion
                gives no loss for each; or the criterion returns no tensor, or also a number that
                depends on the targets.
            ValueError: an argument with the batch at dimension 0 is not declared.
            RuntimeError: the criterion modifies its arguments or its buffers in place.
        """
        self._claim_output()
        call = self._rule.arguments(criterion).call_with_target(self.y, output, more, options)
        mixed = self._source is not None and self._plan is not None
        plain = self._source.plain_in((output, *more)) if mixed else ()
        return self._rule.loss(criterion, call, self._plan, batch_dim=self.batch_dim, plain=plain)

    def soft(self, num_classes: int) -> Tensor:
        """Return the mixed soft labels.

        Args:
            num_classes: the number of classes.

        Returns:
            For class indices ``(batch, *positions)``, the mixed one-hot labels, float32 ``(batch,
            num_classes, *positions)``, as `torch.nn.CrossEntropyLoss` takes them. For soft or
            multi-label targets, their mix. With ``targets="mix"``, the mix of any floating point
            target.

        Raises:
            TypeError: the target is not a single tensor, or must not be interpolated.
            ValueError: a class lies outside 0 to ``num_classes`` - 1, or floating point targets are
                not labels.
        """
        self._claim_output()
        refuse_twice(self._plan)
        y = self._single("soft")
        if y.is_floating_point() and self._rule.targets == "ends":
            raise TypeError("targets='ends' means that targets cannot be interpolated.")
        shares = self._shares(y)
        return _labels.soft(y, self._plan, shares, num_classes, asked=self._rule.targets == "mix")

    def accuracy(self, output: Tensor, ignore_index: int = -100) -> Tensor:
        """Return the accuracy weighted by λ: the share of the mixed target that is predicted.

        A prediction counts λ if it is the example's own class, 1-λ if it is the partner's class,
        and 1 if both classes agree. Where positions have shares of their own, these take the place
        of λ. Without mixing, this is the usual accuracy.

        Args:
            output: scores, ``(batch, classes, *positions)``.
            ignore_index: class of the positions to ignore.

        Returns:
            A scalar in 0 to 1, on the device of ``output``. For soft labels, the most likely class
            counts. Off the CPU, invalid target values give NaN instead of an error, to avoid
            synchronisation.

        Raises:
            TypeError: the target is not a single tensor.
            ValueError: the shapes of output and target do not match, or a target value is neither a
                class, ``ignore_index`` nor a soft label of one class.
        """
        refuse_twice(self._plan)
        if self._source is not None:  # it is for the log, so a loss is still to come
            self._source.withdraw_claim(self._claim_key)
        y = self._single("accuracy")
        return _labels.accuracy(y, self._plan, self._shares(y), output, ignore_index)

    def _shares(self, y: Tensor) -> Shares | None:
        """Return the share that each position of labels keeps; None if they have no positions."""
        if self._plan is None:
            return None
        return shares_of(y, self._plan, dense=self._rule.dense, probabilities=True)

    def _single(self, what: str) -> Tensor:
        if not isinstance(self.y, Tensor):
            raise TypeError(
                f"{what} needs a single tensor of targets, but got a {type(self.y).__name__}. "
                f"Select one of its tensors: MixedTarget(y[...], mixed.plan).{what}(...)."
            )
        if 0 < self.batch_dim < self.y.ndim:
            raise ValueError(
                f"{what} needs a target with the batch at dimension 0, but it is at "
                f"{self.batch_dim} of shape {tuple(self.y.shape)}. Use MixedTarget(y.movedim("
                f"{self.batch_dim}, 0), mixed.plan).{what}(...), and an output of that order."
            )
        return self.y
