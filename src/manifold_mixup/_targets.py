"""The one target algebra: what a mixed batch should have answered."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _mix
from manifold_mixup._layers import unwrap
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan
from manifold_mixup._tree import ends, leaves, map_leaves

Criterion = Callable[..., Any]


class MixedTarget:
    """The targets of a batch, mixed as its hidden states were (paper, Eq. 1).

    Floating point targets (soft labels, multilabel, regression) are interpolated. Everything else
    counts as classes, of which there is no mean: their losses are interpolated instead, which for
    cross-entropy is the same.

    Args:
        y: a tensor with the batch at dimension 0, or a tuple, list, dict or dataclass of such.
        plan: what the forward pass mixed; None for nothing.

    Raises:
        TypeError: ``y`` holds something that is neither a tensor nor None.
        ValueError: a tensor of ``y`` has another batch size than the plan.

    Examples:
        >>> plan = MixPlan("fc", lam=torch.tensor(0.75), perm=torch.tensor([1, 0]))
        >>> MixedTarget(torch.tensor([0, 2]), plan).soft(3)
        tensor([[0.7500, 0.0000, 0.2500],
                [0.2500, 0.0000, 0.7500]])
    """

    def __init__(self, y: Any, plan: MixPlan | None) -> None:
        self.y = y
        self.plan = plan
        if plan is not None:
            _check_rows(y, plan)

    def loss(self, criterion: Criterion, output: Any, *more: Any, **options: Any) -> Any:
        """Return the loss of the output of a mixed pass.

        Args:
            criterion: called as ``criterion(output, target, *more, **options)``. With a λ per
                sample and class targets it must give a loss per sample: by a ``reduction``
                attribute or argument, or because it does not reduce. What it reduces to must be
                their sum, or that divided by one number for all samples.
            output: what the model returned.
            more: further arguments, passed on unmixed. What belongs to the target, such as its
                lengths, goes into the target instead, as part of a tuple.
            options: further keyword arguments, passed on unmixed.

        Raises:
            TypeError: a λ per sample meets a criterion without a loss per sample, or the criterion
                gives no tensor, or beside it a number that differs for the partners' targets.
        """
        if "reduction" in options:
            criterion = functools.partial(criterion, reduction=options.pop("reduction"))

        def evaluate(with_criterion: Criterion, target: Any) -> Any:
            return with_criterion(output, target, *more, **options)

        if self.plan is None:
            return evaluate(criterion, self.y)
        own, partner = self._pair(self.plan)
        if all(is_continuous(leaf) for _, leaf in leaves(self.y)):
            return evaluate(criterion, own)  # Eq. 1 to the letter: one loss of the mixed target
        if self.plan.lam.ndim == 0:
            return _interpolate(
                evaluate(criterion, own), evaluate(criterion, partner), self.plan.lam
            )
        return _per_sample(criterion, evaluate, own, partner, self.plan)

    def soft(self, num_classes: int) -> Tensor:
        """Return the soft labels.

        Args:
            num_classes: the number of classes.

        Returns:
            Of class indices ``(batch, *positions)`` the mixed one-hot labels, float32 ``(batch,
            num_classes, *positions)`` as `torch.nn.CrossEntropyLoss` takes them; of floating point
            targets their mix.

        Raises:
            TypeError: the target is no single tensor.
            ValueError: a class lies outside 0 to ``num_classes`` - 1.
        """
        y = self._single("soft")
        if not is_continuous(y):
            y = _one_hot(y, num_classes)
        return y if self.plan is None else _mix.apply(y, self.plan.lam, self.plan.perm)

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
            counts, so that this is no metric for multilabel targets.

        Raises:
            TypeError: the target is no single tensor.
            ValueError: the shapes of output and target do not belong together.
        """
        y = self._single("accuracy")
        wanted = output.shape if is_continuous(y) else output.shape[:1] + output.shape[2:]
        if output.ndim < 2 or output.shape[1] < 2 or y.shape != wanted:
            raise ValueError(
                f"accuracy compares scores (batch, classes, *positions) of at least two classes "
                f"with classes (batch, *positions) or soft labels, but the output has shape "
                f"{tuple(output.shape)} and the target {tuple(y.shape)}."
            )
        classes = y.argmax(1) if is_continuous(y) else y
        predicted = output.argmax(1)
        hit, counts = _hits(predicted, classes, ignore_index)
        if self.plan is not None:
            partners = classes[self.plan.perm.to(classes.device)]
            other = _hits(predicted, partners, ignore_index)
            hit, counts = _interpolate((hit, counts), other, self.plan.lam)
        return hit.sum() / counts.sum()

    def _pair(self, plan: MixPlan) -> tuple[Any, Any]:
        """Return both ends of the interpolation; continuous leaves are mixed in both."""

        def own(_: str, leaf: Tensor) -> Tensor:
            return _mix.apply(leaf, plan.lam, plan.perm) if is_continuous(leaf) else leaf

        def partner(path: str, leaf: Tensor) -> Tensor:
            return own(path, leaf) if is_continuous(leaf) else leaf[plan.perm.to(leaf.device)]

        return map_leaves(own, self.y), map_leaves(partner, self.y)

    def _single(self, what: str) -> Tensor:
        if not isinstance(self.y, Tensor):
            raise TypeError(
                f"{what} needs one tensor of targets, but there is a {type(self.y).__name__}. Ask "
                f"for one of them: MixedTarget(y[...], mixed.plan).{what}(...)."
            )
        return self.y


def _over_rows(weight: Tensor, like: Tensor) -> Tensor:
    """Shape weights ``()`` or ``(batch,)`` so that they go along the rows of ``like``."""
    weight = weight.to(like.device)
    return weight if weight.ndim == 0 else weight.view(-1, *(1 for _ in like.shape[1:]))


def _interpolate(own: Any, partner: Any, lam: Tensor) -> Any:
    """Mix two losses, tensors or containers of such, with the same precision as `mix`."""
    partners = dict(leaves(partner))
    if not partners or partners.keys() != dict(leaves(own)).keys():
        raise TypeError(
            f"a criterion must give a tensor, or the same ones for every target, to be mixed; this "
            f"one gave a {type(own).__name__} with {len(dict(leaves(own)))} of them and a "
            f"{type(partner).__name__} with {len(partners)}."
        )
    _check_numbers(own, partner)

    def mixed(path: str, leaf: Tensor) -> Tensor:
        exact = torch.promote_types(leaf.dtype, torch.float32)
        weight = _over_rows(lam, leaf).to(exact)
        both = weight * leaf.to(exact) + (1 - weight) * partners[path].to(exact)
        return both.to(leaf.dtype) if is_continuous(leaf) else both  # the mean of counts is none

    return map_leaves(mixed, own)


def _check_numbers(own: Any, partner: Any) -> None:
    """Raise if two losses come with Python numbers that depend on the target."""
    others = dict(ends(partner))
    for path, number in ends(own):
        if isinstance(number, int | float) and number != others.get(path):
            raise TypeError(
                f"a criterion gave the number {number} at {path!r} for the targets and "
                f"{others.get(path)} for those of the partners. Only tensors can be mixed: leave "
                f"out .item()."
            )


def _per_sample(
    criterion: Criterion,
    evaluate: Callable[[Criterion, Any], Any],
    own: Any,
    partner: Any,
    plan: MixPlan,
) -> Tensor:
    """Interpolate the losses of each sample, then reduce them as the criterion does."""
    unreduced = _unreduced(criterion)
    each = criterion if unreduced is None else unreduced
    losses = evaluate(each, own)
    if not (isinstance(losses, Tensor) and losses.ndim and losses.shape[0] == plan.batch):
        seen = (
            f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        )
        raise TypeError(
            f"per_sample=True needs a loss for each of the {plan.batch} examples, but "
            f"{_name(criterion)} gave {seen}. Give it a reduction attribute or argument that takes "
            f"'none', let it not reduce, or use per_sample=False."
        )
    partners = evaluate(each, partner)
    mixed = _interpolate(losses, partners, plan.lam)
    if unreduced is None:  # a criterion that does not reduce
        return mixed  # type: ignore[no-any-return]
    # What the plain loss divides by (elements, class weights, positions not ignored) is the ratio
    # of its sum to its value. A permutation of the batch does not change it, so both ends tell.
    exact = torch.promote_types(mixed.dtype, torch.float32)
    total = losses.detach().sum(dtype=exact) + partners.detach().sum(dtype=exact)
    reduced = evaluate(criterion, own).detach().to(exact) + evaluate(criterion, partner).detach()
    factor = torch.where(reduced == 0, 1.0, reduced / total)
    return (mixed.sum(dtype=exact) * factor).to(mixed.dtype)  # type: ignore[no-any-return]


def _unreduced(criterion: Criterion) -> Criterion | None:
    """Return the criterion with ``reduction="none"``; None if it does not reduce or cannot tell."""
    reduction = getattr(criterion, "reduction", None)
    if isinstance(reduction, str):
        if reduction == "none":
            return None
        if isinstance(criterion, torch.nn.Module):
            criterion = unwrap(criterion)  # a compiled module hands attributes on to the inner one
        for copied in (copy.copy, copy.deepcopy):
            twin = copied(criterion)  # the shallow one shares the weights
            try:
                object.__setattr__(twin, "reduction", "none")  # of a frozen dataclass too
            except AttributeError:  # computed from something else
                return None
            if getattr(criterion, "reduction", None) == reduction:
                return twin
            # A setter that hands on to a part of it has reached the user's own criterion.
            object.__setattr__(criterion, "reduction", reduction)
    if _reduction_argument(criterion) == "none":
        return None
    return functools.partial(criterion, reduction="none")


def _reduction_argument(criterion: Criterion) -> Any:
    """Return what the ``reduction`` argument is if it is left out; "none" if there is no such."""
    function, given = criterion, {}
    if isinstance(criterion, functools.partial):
        function, given = criterion.func, criterion.keywords
    if isinstance(function, torch.nn.Module):
        function = function.forward
    try:
        parameter = inspect.signature(function).parameters.get("reduction")
    except ValueError:  # a builtin does not tell
        return "none"
    return "none" if parameter is None else given.get("reduction", parameter.default)


def _name(criterion: Criterion) -> str:
    return getattr(criterion, "__name__", type(criterion).__name__)


def _hits(predicted: Tensor, classes: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Mark where a prediction is right, and where it counts at all."""
    counts = classes != ignore_index
    return ((predicted == classes) & counts).float(), counts.float()


def _one_hot(y: Tensor, num_classes: int) -> Tensor:
    least, most = (int(y.min()), int(y.max())) if y.numel() else (0, 0)
    if least < 0 or most >= num_classes:
        raise ValueError(
            f"soft labels need classes in 0 to {num_classes - 1}, but there are some from {least} "
            f"to {most}."
        )
    return torch.nn.functional.one_hot(y.long(), num_classes).movedim(-1, 1).float()


def _check_rows(y: Any, plan: MixPlan) -> None:
    for path, leaf in ends(y):
        where = f"the target{path and f' {path!r}'}"
        if leaf is None:
            continue
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{where} is a {type(leaf).__name__}, which cannot be mixed. Targets are tensors; "
                f"pass anything else to the criterion as a further argument."
            )
        if leaf.ndim == 0 or leaf.shape[0] != plan.batch:
            raise ValueError(
                f"the forward pass that made this output mixed {plan.batch} examples but {where} "
                f"has shape {tuple(leaf.shape)}. Its dimension 0 must be the batch; flatten tokens "
                f"or pixels inside the criterion, not before it."
            )
