"""A loss for every example, and how a criterion reduces them to one number."""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._plan import MixPlan
from manifold_mixup._target.arguments import Call, name_of
from manifold_mixup._target.ends import interpolate, over_rows
from manifold_mixup._target.losses import Criterion, Known, eager, signature
from manifold_mixup._tree import leaves

Evaluate = Callable[[Criterion, Call], Any]


def per_sample(
    criterion: Criterion,
    known: Known | None,
    evaluate: Evaluate,
    pair: tuple[Call, Call],
    plan: MixPlan,
) -> Any:
    """Return the loss with a λ for every example: by rows, then reduced as the criterion does.

    Raises:
        TypeError: the criterion gives no loss for every example, or reduces them by no known rule.
    """
    if "reduction" in pair[0].options:  # an argument of the call
        chosen = pair[0].options["reduction"]
        criterion = functools.partial(criterion, reduction=chosen)
        pair = tuple(_without_reduction(call) for call in pair)  # type: ignore[assignment]
    unreduced = _unreduced(criterion)
    each = criterion if unreduced is None else unreduced
    own = evaluate(each, pair[0])
    _require_rows(own, plan.batch, criterion)
    partner = evaluate(each, pair[1])
    if unreduced is None:  # a criterion that does not reduce
        return interpolate(own, partner, plan.lam)
    if known is not None and known.name == "ctc_loss":
        return _of_ctc(criterion, known, (own, partner), pair, plan)
    reduced = [evaluate(criterion, call).detach() for call in pair]
    fit = _Fit((own, partner), reduced, plan)
    return fit.reduced() if known is not None else _by_rule_that_fits(fit, pair, criterion)


def _without_reduction(call: Call) -> Call:
    return Call(call.args, {k: v for k, v in call.options.items() if k != "reduction"})


def _require_rows(losses: Any, batch: int, criterion: Criterion) -> None:
    if isinstance(losses, Tensor) and losses.ndim and losses.shape[0] == batch:
        return
    seen = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
    raise TypeError(
        f"per_sample=True needs a loss for each of the {batch} examples, but {name_of(criterion)} "
        f"gave {seen}. Give it a reduction attribute or argument that takes 'none', let it not "
        f"reduce, use per_sample=False, or, if its targets are floating point numbers of which "
        f"there is a mean, targets='mix'."
    )


class _Fit:
    """Losses by rows, and what they are reduced to: their sum, divided by one number for all rows.

    What the plain loss divides by (elements, class weights, positions not ignored) is the ratio of
    the sum to the value. A permutation of the batch does not change it, so both ends tell, and if
    they do not tell the same the rule is another one.

    Args:
        rows: the losses by rows, of the own targets and of the partners'.
        values: the plain losses of the two.
        plan: the shares.
    """

    def __init__(self, rows: tuple[Tensor, Tensor], values: list[Tensor], plan: MixPlan) -> None:
        self.rows, self.plan = rows, plan
        self.dtype = rows[0].dtype
        self.exact = torch.promote_types(self.dtype, torch.float32)
        self.values = [value.to(self.exact) for value in values]
        self._sums = self._sum()

    def _sum(self) -> list[Tensor]:
        return [rows.detach().sum(dtype=self.exact) for rows in self.rows]

    def reduced(self) -> Tensor:
        """Return the loss between the two ends."""
        total, value = sum(self._sums), self.values[0] + self.values[1]
        factor = torch.where(value == 0, 1.0, value / total)
        mixed = interpolate(*self.rows, self.plan.lam)
        return (mixed.sum(dtype=self.exact) * factor).to(self.dtype)  # type: ignore[no-any-return]

    def divided(self, divisors: tuple[Tensor, Tensor] | None) -> "_Fit":
        """Return the fit of losses that are divided by a number for each row first.

        A NaN among the rows of a loss that is none leaves them out, as here.
        """
        rows = []
        for place, losses in enumerate(self.rows):
            losses = torch.where(losses.isnan(), 0, losses)
            if divisors is not None:
                losses = losses.to(self.exact) / over_rows(divisors[place].clamp_min(1), losses)
            rows.append(losses)
        fit = _Fit((rows[0], rows[1]), self.values, self.plan)
        fit.dtype = self.dtype
        return fit

    def clearly_holds(self) -> bool:
        """Return whether both ends tell the same, for losses on the host and of one sign."""
        own, partner = (total.item() for total in self._sums)
        value, other = (one.item() for one in self.values)
        return abs(own * other - partner * value) <= self._tolerance * abs(own * other)

    @property
    def _tolerance(self) -> float:
        return max(1e-4, 4 * torch.finfo(self.dtype).eps)

    def holds(self) -> Tensor:
        """Return whether both ends tell the same; where a value is not finite, so is the loss."""
        own, partner = (rows.detach().abs().sum(dtype=self.exact) for rows in self.rows)
        sums, values = self._sums, self.values
        ratio = (values[0].abs() + values[1].abs()) / (sums[0].abs() + sums[1].abs())
        apart = (sums[0] * values[1] - sums[1] * values[0]).abs()
        within = apart <= self._tolerance * own * partner * ratio
        return within | ~apart.isfinite() | ~ratio.isfinite()


def _by_rule_that_fits(fit: _Fit, pair: tuple[Call, Call], criterion: Criterion) -> Tensor:
    """Reduce by one divisor for all rows, or by a number of each row beside, such as its length.

    The host is asked only where the answer lies there. Elsewhere a loss that fits no rule is NaN.
    """
    on_host = fit.rows[0].device.type == "cpu"
    if on_host and fit.clearly_holds():
        return fit.reduced()
    loss: Tensor | None = None
    for divisors in (None, *_numbers(pair, fit.plan)):
        tried = fit.divided(divisors)
        if on_host:
            if tried.holds():
                return tried.reduced()
            continue
        value = torch.where(tried.holds(), tried.reduced(), torch.nan)
        loss = value if loss is None else torch.where(loss.isnan(), value, loss)
    if loss is None:
        raise TypeError(
            f"{name_of(criterion)} reduces the losses of the examples in a way that cannot be told "
            f"from its results: neither to their sum or mean, nor to that divided by one number "
            f"for all, nor with each divided by its length. Let it not reduce, and reduce what "
            f"the wrapped criterion returns, or use per_sample=False."
        )
    return loss


def _numbers(pair: tuple[Call, Call], plan: MixPlan) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every integer for each row in what differs between the two calls."""
    own, partner = (dict(leaves((call.args, dict(call.options)))) for call in pair)
    for path, leaf in own.items():
        whole = not leaf.is_floating_point() and not leaf.is_complex() and leaf.dtype != torch.bool
        if whole and leaf.shape == (plan.batch,) and partner[path] is not leaf:
            yield leaf, partner[path]


def _of_ctc(
    criterion: Criterion,
    known: Known,
    rows: tuple[Tensor, Tensor],
    pair: tuple[Call, Call],
    plan: MixPlan,
) -> Tensor:
    """Reduce as `torch.nn.CTCLoss`, whose mean divides each loss by the length of its target."""
    given = criterion.keywords if isinstance(criterion, functools.partial) else {}
    if known.option("reduction", given, "mean") == "sum":
        return interpolate(*rows, plan.lam).sum()  # type: ignore[no-any-return]
    own, partner = (
        loss / _lengths(call).to(loss.device).clamp_min(1)
        for loss, call in zip(rows, pair, strict=True)
    )
    return interpolate(own, partner, plan.lam).mean()  # type: ignore[no-any-return]


def _lengths(call: Call) -> Tensor:
    given = call.options["target_lengths"] if "target_lengths" in call.options else call.args[3]
    return torch.as_tensor(given)


def _unreduced(criterion: Criterion) -> Criterion | None:
    """Return the criterion with ``reduction="none"``; None if it does not reduce or cannot tell."""
    reduction = getattr(criterion, "reduction", None)
    if isinstance(reduction, str):
        if reduction == "none":
            return None
        if isinstance(criterion, nn.Module):
            criterion = eager(criterion)  # a compiled module hands attributes on to the inner one
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
    given = criterion.keywords if isinstance(criterion, functools.partial) else {}
    found = signature(criterion)
    parameter = None if found is None else found.parameters.get("reduction")
    return "none" if parameter is None else given.get("reduction", parameter.default)
