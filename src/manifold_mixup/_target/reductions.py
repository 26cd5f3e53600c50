"""Losses per example or position, and how a criterion reduces them to one number."""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from manifold_mixup._batch_first import batch_first, undo_batch_first
from manifold_mixup._interpolate import over_rows
from manifold_mixup._plan import MixPlan
from manifold_mixup._target.arguments import Call, CallPair, mix_instead, name_of
from manifold_mixup._target.interpolation import holds_batch, interpolate_losses
from manifold_mixup._target.losses import Criterion, TorchLoss, eager, signature
from manifold_mixup._tree import leaves

Evaluate = Callable[[Criterion, Call], Any]


class LossShares(Protocol):
    """How much of each of several losses an example's own target has."""

    @property
    def batch(self) -> int:
        """Number of examples."""

    @property
    def repeats(self) -> bool:
        """Whether some examples are partners of several others."""

    @property
    def alternative(self) -> str:
        """What the user may choose that does without losses apart."""

    def for_losses(
        self, losses: Any, criterion: Criterion, calls: CallPair | None = None
    ) -> Tensor:
        """Return the shares, to broadcast over the losses with the batch in front.

        Args:
            losses: what the criterion returned.
            criterion: the criterion.
            calls: its calls with the own targets and with the partners', for the error.

        Raises:
            TypeError: there is not a loss for each share.
        """


class SharePerExample:
    """One share for each example.

    Args:
        plan: the plan.
        dim: the dimension of losses that holds the batch.
    """

    def __init__(self, plan: MixPlan, dim: int = 0) -> None:
        self.plan, self.dim = plan, dim
        self.batch, self.repeats = plan.batch, plan.repeats
        self.alternative = "per_sample=False" if plan.label is None else "no label="

    def for_losses(
        self, losses: Any, criterion: Criterion, calls: CallPair | None = None
    ) -> Tensor:
        """Return the share of each example.

        Raises:
            TypeError: there is not a loss for each example.
        """
        if isinstance(losses, Tensor) and holds_batch(losses.shape, self.batch, self.dim):
            return self.plan.target_lam
        seen = type(losses).__name__
        if isinstance(losses, Tensor):
            seen = f"shape {tuple(losses.shape)}"
        option = "per_sample=True" if self.plan.label is None else "label="
        raise TypeError(
            f"{option} needs a loss for each of the {self.batch} examples, but "
            f"{name_of(criterion)} returned {seen}. Add a reduction attribute or argument that "
            f"accepts 'none', do not reduce in the criterion, or use {self.alternative}"
            f"{mix_instead(calls)}."
        )


def interpolate_per_share(
    criterion: Criterion,
    torch_loss: TorchLoss | None,
    evaluate: Evaluate,
    pair: tuple[Call, Call],
    shares: LossShares,
    dim: int = 0,
) -> Any:
    """Return the loss for several shares: each loss apart, then reduced as the criterion does.

    Raises:
        TypeError: the criterion gives no loss for each share, or reduces them by an unknown rule.
    """
    if "reduction" in pair[0].options:  # an argument of the call
        chosen = pair[0].options["reduction"]
        criterion = functools.partial(criterion, reduction=chosen)
        pair = tuple(_without_reduction(call) for call in pair)  # type: ignore[assignment]
    unreduced = _unreduced(criterion)
    each = criterion if unreduced is None else unreduced
    own = evaluate(each, pair[0])
    share = shares.for_losses(own, criterion, pair)
    own, partner = batch_first(own, dim), batch_first(evaluate(each, pair[1]), dim)
    if unreduced is None:  # a criterion that does not reduce
        return undo_batch_first(interpolate_losses(own, partner, share), dim)
    if torch_loss is not None and torch_loss.name == "ctc_loss":
        return _reduce_like_ctc(criterion, torch_loss, (own, partner), pair, share)
    reduced = [evaluate(criterion, call).detach() for call in pair]
    fit = _Fit((own, partner), reduced, share, repeats=shares.repeats)
    return (
        fit.reduced()
        if torch_loss is not None
        else _by_rule_that_fits(fit, pair, criterion, shares)
    )


def _without_reduction(call: Call) -> Call:
    return Call(call.args, {k: v for k, v in call.options.items() if k != "reduction"})


class _Fit:
    """The hypothesis that a loss is the sum of its parts, divided by one number for all.

    A part is the loss of an example, a row, or of one of its positions.

    The divisor of the plain loss (elements, class weights, positions not ignored) is the ratio of
    the sum to the value. Permuting the batch does not change it, so both ends must give the same
    divisor. If they do not, the loss is reduced by another rule. If some examples are partners of
    several others, each end of one of PyTorch's losses has a divisor of its own.

    Args:
        rows: the losses per row, with the own targets and with the partners'.
        values: the reduced losses of the two.
        share: how much of them the own targets have.
        repeats: whether some examples are partners of several others.
    """

    def __init__(
        self, rows: tuple[Tensor, Tensor], values: list[Tensor], share: Tensor, *, repeats: bool
    ) -> None:
        self.rows, self.share, self.repeats = rows, share, repeats
        self.dtype = rows[0].dtype
        self.exact = torch.promote_types(self.dtype, torch.float32)
        self.values = [value.to(self.exact) for value in values]
        self._sums = self._sum()

    def _sum(self) -> list[Tensor]:
        return [rows.detach().sum(dtype=self.exact) for rows in self.rows]

    def reduced(self) -> Tensor:
        """Return the loss between the two ends."""
        if self.repeats:
            return self._reduced_apart()
        total, value = sum(self._sums), self.values[0] + self.values[1]
        factor = torch.where(value == 0, 1.0, value / total)
        mixed = interpolate_losses(*self.rows, self.share)
        return (mixed.sum(dtype=self.exact) * factor).to(self.dtype)  # type: ignore[no-any-return]

    def _reduced_apart(self) -> Tensor:
        """Return the loss between the two ends, each with its own divisor."""
        own, partner = (
            rows.to(self.exact) * torch.where(value == 0, 1.0, value / total)
            for rows, value, total in zip(self.rows, self.values, self._sums, strict=True)
        )
        return interpolate_losses(own, partner, self.share).sum().to(self.dtype)  # type: ignore[no-any-return]

    def divided(self, divisors: tuple[Tensor, Tensor] | None) -> "_Fit":
        """Return the fit of losses that are first divided by one number per row.

        NaN rows count as 0, because a loss that is finite nevertheless must have ignored them.
        """
        rows = []
        for index, losses in enumerate(self.rows):
            losses = torch.where(losses.isnan(), 0, losses)
            if divisors is not None:
                losses = losses.to(self.exact) / over_rows(divisors[index].clamp_min(1), losses)
            rows.append(losses)
        fit = _Fit((rows[0], rows[1]), self.values, self.share, repeats=self.repeats)
        fit.dtype = self.dtype
        return fit

    def clearly_holds(self) -> bool:
        """Return whether both ends give the same divisor, for CPU losses of one sign."""
        own, partner = (total.item() for total in self._sums)
        value, other = (value.item() for value in self.values)
        return abs(own * other - partner * value) <= self._tolerance * abs(own * other)

    @property
    def _tolerance(self) -> float:
        return max(1e-4, 4 * torch.finfo(self.dtype).eps)

    def holds(self) -> Tensor:
        """Return whether both ends give the same divisor; non-finite values pass."""
        own, partner = (rows.detach().abs().sum(dtype=self.exact) for rows in self.rows)
        sums, values = self._sums, self.values
        ratio = (values[0].abs() + values[1].abs()) / (sums[0].abs() + sums[1].abs())
        apart = (sums[0] * values[1] - sums[1] * values[0]).abs()
        within = apart <= self._tolerance * own * partner * ratio
        return within | ~apart.isfinite() | ~ratio.isfinite()


def _by_rule_that_fits(
    fit: _Fit, pair: tuple[Call, Call], criterion: Criterion, shares: LossShares
) -> Tensor:
    """Reduce by one divisor for all rows, or also by one number per row, such as its length.

    Off the CPU the result of the fit is not read, to avoid synchronisation: if no rule fits, the
    loss is NaN.
    """
    on_host = fit.rows[0].device.type == "cpu"
    if on_host and fit.clearly_holds():
        return fit.reduced()
    loss: Tensor | None = None
    for divisors in (None, *_integers_per_row(pair, shares.batch)):
        tried = fit.divided(divisors)
        if on_host:
            if tried.holds():
                return tried.reduced()
            continue
        value = torch.where(tried.holds(), tried.reduced(), torch.nan)
        loss = value if loss is None else torch.where(loss.isnan(), value, loss)
    if loss is None:
        raise TypeError(
            f"{name_of(criterion)} reduces the losses of the examples by an unknown rule: it is "
            f"not their sum or mean, not a sum divided by one number for all, and not a sum with "
            f"each loss divided by its length. Do not reduce in the criterion and reduce what the "
            f"wrapped criterion returns, or use {shares.alternative}."
        )
    return loss


def _integers_per_row(pair: tuple[Call, Call], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every argument with one integer per row that differs between the two calls."""
    own, partner = (dict(leaves((call.args, dict(call.options)))) for call in pair)
    for path, leaf in own.items():
        whole = not leaf.is_floating_point() and not leaf.is_complex() and leaf.dtype != torch.bool
        if whole and leaf.shape == (batch,) and partner[path] is not leaf:
            yield leaf, partner[path]


def _reduce_like_ctc(
    criterion: Criterion,
    torch_loss: TorchLoss,
    rows: tuple[Tensor, Tensor],
    pair: tuple[Call, Call],
    share: Tensor,
) -> Tensor:
    """Reduce like `torch.nn.CTCLoss`, whose mean divides each loss by its target's length."""
    given = criterion.keywords if isinstance(criterion, functools.partial) else {}
    if torch_loss.option("reduction", given, "mean") == "sum":
        return interpolate_losses(*rows, share).sum()  # type: ignore[no-any-return]
    own, partner = (
        loss / _lengths(call).to(loss.device).clamp_min(1)
        for loss, call in zip(rows, pair, strict=True)
    )
    return interpolate_losses(own, partner, share).mean()  # type: ignore[no-any-return]


def _lengths(call: Call) -> Tensor:
    given = call.options["target_lengths"] if "target_lengths" in call.options else call.args[3]
    return torch.as_tensor(given)


def _unreduced(criterion: Criterion) -> Criterion | None:
    """Return the criterion with ``reduction="none"``; None if that is impossible or not needed."""
    reduction = getattr(criterion, "reduction", None)
    if isinstance(reduction, str):
        if reduction == "none":
            return None
        if isinstance(criterion, nn.Module):
            criterion = eager(criterion)  # a compiled module forwards attributes to it
        for make_copy in (copy.copy, copy.deepcopy):
            copied = make_copy(criterion)  # a shallow copy shares the weights
            try:
                object.__setattr__(copied, "reduction", "none")  # works for frozen dataclasses
            except AttributeError:  # a read-only property
                return None
            if getattr(criterion, "reduction", None) == reduction:
                return copied
            # The setter changed a shared part, and so the user's own criterion: undo it.
            object.__setattr__(criterion, "reduction", reduction)
    if _reduction_argument(criterion) == "none":
        return None
    return functools.partial(criterion, reduction="none")


def _reduction_argument(criterion: Criterion) -> Any:
    """Return the default of the ``reduction`` argument; "none" if there is no such argument."""
    given = criterion.keywords if isinstance(criterion, functools.partial) else {}
    found = signature(criterion)
    parameter = None if found is None else found.parameters.get("reduction")
    return "none" if parameter is None else given.get("reduction", parameter.default)
