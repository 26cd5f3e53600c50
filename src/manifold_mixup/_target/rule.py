"""Mix the targets of one criterion: interpolate the losses at both ends, or the target."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

from torch import Tensor

from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan
from manifold_mixup._target import classes
from manifold_mixup._target import comparisons as _comparisons
from manifold_mixup._target.arguments import (
    NONE,
    Arguments,
    Call,
    Declared,
    Key,
    Keys,
    Roles,
    name_of,
)
from manifold_mixup._target.dense import Dense, check_dense, shares_of
from manifold_mixup._target.interpolation import (
    holds_batch,
    interpolate_losses,
    interpolate_target,
    of_partners,
    partner_rows,
)
from manifold_mixup._target.losses import Criterion, TorchLoss, uncompiled
from manifold_mixup._target.namespaces import Namespace, namespaces
from manifold_mixup._target.reductions import Evaluate, SharePerExample, interpolate_per_share
from manifold_mixup._target.shares import Shares
from manifold_mixup._target.writes import Evaluations
from manifold_mixup._tree import all_leaves, leaves, map_leaves
from manifold_mixup._warn import warn

Targets = Literal["mix", "ends"] | None


class _Evaluating(threading.local):
    def __init__(self) -> None:
        self.plans: list[MixPlan] = []


_evaluating = _Evaluating()


def refuse_twice(plan: MixPlan | None) -> None:
    """Raise RuntimeError if a criterion that is evaluated for a plan mixes by it again."""
    for other in _evaluating.plans:
        if plan is other:
            raise RuntimeError(
                "a criterion inside a wrapped criterion also mixes the targets, which would mix "
                "them twice. Inside, use the plain criterion (criterion.criterion of a wrapped "
                "one) and the unmixed target, or do not wrap the outer criterion."
            )


class Declarations(TypedDict):
    """The options for a criterion; see `ManifoldMixup.wrap`."""

    targets: Targets
    with_target: Keys
    with_output: Keys
    whole: Keys
    dense: Dense


class Rule:
    """The options for a criterion and its arguments; see `ManifoldMixup.wrap`.

    Raises:
        TypeError: an argument is declared by neither a name nor a position.
        ValueError: ``targets`` is unknown, or an argument is declared twice.
    """

    def __init__(
        self,
        targets: Targets = None,
        with_target: Keys = (),
        with_output: Keys = (),
        whole: Keys = (),
        dense: Dense = None,
    ) -> None:
        check_dense(dense)
        self.dense = dense
        if targets not in (None, "mix", "ends"):
            raise ValueError(f"targets must be 'mix', 'ends' or None, but is {targets!r}.")
        self.targets = targets
        self.declared = Declared.from_options(with_target, with_output, whole)
        # Whether cross-entropy of class indices is what it usually is.
        self.undeclared = targets != "mix" and dense in (None, False) and self.declared is NONE
        self._arguments: Arguments | None = None
        self._namespaces: list[Namespace] = []

    def arguments(self, criterion: Criterion) -> Arguments:
        """Return the arguments of the criterion; its signature is read once.

        Raises:
            ValueError: the criterion has no argument of a declared name or position.
        """
        if self._arguments is None or self._arguments.criterion is not criterion:
            self._arguments = Arguments(criterion, self.declared)
            self._namespaces = [] if self._arguments.torch_loss else namespaces(criterion)
        return self._arguments

    def loss(
        self,
        criterion: Criterion,
        call: Call,
        plan: MixPlan | None,
        *,
        batch_dim: int = 0,
        checked: Callable[[], None] | None = None,
        check_comparisons: bool = False,
        plain: Sequence[Tensor] = (),
    ) -> Any:
        """Return the loss of a call with the targets mixed by a plan.

        Args:
            criterion: the criterion to call.
            call: its arguments, with the examples' own targets.
            plan: the plan; None if nothing was mixed.
            batch_dim: the dimension of targets and outputs that holds the batch.
            checked: called after the arguments are checked, before the criterion.
            check_comparisons: whether to check if the criterion compares examples, or reads
                something of each that it is not given.
            plain: tensors in the outputs that are the examples' own, and follow the targets.
        """
        if plan is None:
            if checked is not None:
                checked()
            return call.run(criterion)
        usual = self.undeclared and classes.cross_entropy_of(criterion, call.args, call.options)
        refuse_twice(plan)
        if usual and not batch_dim:
            output, y = call.args
            if classes.fits(usual, output, y, plan):
                if checked is not None:
                    checked()
                return classes.loss(usual, output, y, plan)
        _evaluating.plans.append(plan)
        try:
            return self._mixed(
                criterion,
                call,
                plan,
                batch_dim,
                checked,
                check_comparisons=check_comparisons,
                plain=plain,
            )
        finally:
            _evaluating.plans.pop()

    def _mixed(
        self,
        criterion: Criterion,
        call: Call,
        plan: MixPlan,
        dim: int,
        checked: Callable[[], None] | None,
        *,
        check_comparisons: bool,
        plain: Sequence[Tensor],
    ) -> Any:
        arguments = self.arguments(criterion)
        roles = arguments.roles_of(call)
        if arguments.torch_loss is not None and arguments.torch_loss.name == "ctc_loss":
            dim = 0  # its outputs are (time, batch, classes), its targets (batch, length)
        target = self._target(arguments, call, roles, plan.batch, dim)
        if checked is not None:
            checked()
        if check_comparisons:
            call, compares = _with_comparison_check(arguments, call, roles, plan.batch, dim)
        else:
            compares = None
        shares = self._shares(arguments, roles, target, plan, dim)
        pair = self._call_pair(arguments, call, roles, target, plan, dim, shares)
        if plain:
            if shares is not None:
                raise ValueError(_POSITIONS.format(tuple(plain[0].shape)))
            pair = _with_partner_outputs(pair, roles, plain, plan, dim)
        if arguments.torch_loss is not None:  # it writes nowhere
            return _loss_of_pair(
                criterion, arguments.torch_loss, _evaluate, pair, plan, dim, shares
            )
        spaces = self._namespaces
        evaluations = Evaluations(
            criterion, call, spaces, first=compares, by_values=check_comparisons
        )
        try:
            loss = _loss_of_pair(criterion, None, evaluations.run, pair, plan, dim, shares)
            if check_comparisons:
                _warn_of_order(criterion, evaluations, call, roles, target, plan.batch, dim)
            return loss
        finally:
            evaluations.restore_first_state()

    def _shares(
        self, arguments: Arguments, roles: Roles, target: dict[Key, Any], plan: MixPlan, dim: int
    ) -> Shares | None:
        """Return the share that each position of the target keeps, if it has any."""
        if plan.weight is None:
            return None
        return shares_of(
            {_named(key, roles, arguments): value for key, value in target.items()},
            plan,
            dim=dim,
            dense=self._dense(arguments.torch_loss),
            probabilities=arguments.torch_loss is not None
            and arguments.torch_loss.name == "cross_entropy",
        )

    def _dense(self, torch_loss: TorchLoss | None) -> Dense:
        """Return whether the target has positions: not if it lists classes, as some losses' do."""
        lists = torch_loss is not None and torch_loss.name in ("ctc_loss", "multilabel_margin_loss")
        return False if lists and self.dense is None else self.dense

    def _target(
        self, arguments: Arguments, call: Call, roles: Roles, batch: int, dim: int
    ) -> dict[Key, Any]:
        """Check and return the target and the arguments that belong to it."""
        target = arguments.target_arguments(call, roles, batch, dim)
        torch_loss = arguments.torch_loss
        if torch_loss is not None:
            torch_loss.require_no_rows(call[roles.output], batch, dim)
        if roles.target is None:
            return target
        y = call[roles.target]
        if (
            torch_loss is not None
            and torch_loss.name == "ctc_loss"
            and isinstance(y, Tensor)
            and y.ndim == 1
        ):
            raise ValueError(
                "the targets of CTCLoss are concatenated, so those of one example cannot be "
                "identified. Pass them as (batch, length), padded."
            )
        require_rows(y, batch, dim)
        for key, value in target.items():
            require_rows(value, batch, dim, f"argument {key!r} of {name_of(arguments.criterion)}")
        return {roles.target: y, **target}

    def _call_pair(
        self,
        arguments: Arguments,
        call: Call,
        roles: Roles,
        target: dict[Key, Any],
        plan: MixPlan,
        dim: int,
        shares: Shares | None,
    ) -> tuple[Call, ...]:
        """Return the calls with both targets, or one if the target is selected or interpolated."""
        if shares is not None and shares.select:
            names = {key: _named(key, roles, arguments) for key in target}
            return (
                call.replace({key: shares.selected(target[key], names[key]) for key in target}),
            )
        indices = self._indices(roles, target)
        if indices is not None:  # the most common case
            assert roles.target is not None
            return call, call.replace({roles.target: partner_rows(indices, plan, dim)})
        parts = [leaf for value in target.values() for _, leaf in leaves(value)]
        if not parts:
            return (call,)
        if self._mixes(arguments, call, roles, target):
            mixed = {
                key: interpolate_target(value, plan, dim)
                if shares is None
                else shares.interpolate_target(value, _named(key, roles, arguments))
                for key, value in target.items()
            }
            own = call.replace(mixed)
            if all(is_continuous(leaf) for leaf in parts):
                return (own,)
            partners = {key: _discrete_by_rows(value, plan, dim) for key, value in mixed.items()}
            return own, call.replace(partners)
        partners = {key: of_partners(value, plan, dim) for key, value in target.items()}
        # Lengths of PyTorch's losses may have been Python numbers, which are tensors here.
        own = call if arguments.torch_loss is None or not roles.targets else call.replace(target)
        return own, call.replace(partners)

    def _indices(self, roles: Roles, target: dict[Key, Any]) -> Tensor | None:
        """Return the target if it is a single tensor that is not interpolated in any case."""
        if self.targets == "mix" or len(target) != 1 or roles.target not in target:
            return None
        y = target[roles.target]
        return y if isinstance(y, Tensor) and not is_continuous(y) else None

    def _mixes(
        self, arguments: Arguments, call: Call, roles: Roles, target: dict[Key, Any]
    ) -> bool:
        if self.targets is not None or arguments.torch_loss is None:
            return self.targets == "mix"
        given = {**dict(zip(arguments.names, call.args, strict=False)), **call.options}
        alone = roles.target is not None and len(target) == 1
        return alone and arguments.torch_loss.mixes(call[roles.target], given)  # type: ignore[index]


def _with_partner_outputs(
    pair: tuple[Call, ...], roles: Roles, plain: Sequence[Tensor], plan: MixPlan, dim: int
) -> tuple[Call, Call]:
    """Return the calls with what is the examples' own in the outputs, and the partners'.

    Args:
        pair: the calls with both targets, or one if the target is selected or interpolated.
        roles: the roles of the arguments.
        plain: the tensors that are the examples' own.
        plan: the plan of the pass.
        dim: the dimension that holds the batch.
    """

    def partner(_: str, leaf: Tensor) -> Tensor:
        return partner_rows(leaf, plan, dim) if any(leaf is one for one in plain) else leaf

    last = pair[-1]
    keys = (roles.output, *roles.outputs)
    return pair[0], last.replace({key: map_leaves(partner, last[key]) for key in keys})


def _named(key: Key, roles: Roles, arguments: Arguments) -> str:
    """Return what an argument is called in errors."""
    if key == roles.target:
        return "target"
    named = isinstance(key, int) and key < len(arguments.names)
    return arguments.names[key] if named else str(key)  # type: ignore[index]


def _evaluate(criterion: Criterion, call: Call) -> Any:
    return call.run(criterion)


def _loss_of_pair(
    criterion: Criterion,
    torch_loss: TorchLoss | None,
    evaluate: Evaluate,
    pair: tuple[Call, ...],
    plan: MixPlan,
    dim: int,
    shares: Shares | None,
) -> Any:
    """Return the loss of the interpolated target, or interpolate the losses at both ends."""
    own = pair[0]
    if len(pair) == 1:
        return evaluate(criterion, own)
    if shares is None and plan.target_lam.ndim == 0:
        return interpolate_losses(
            evaluate(criterion, own), evaluate(criterion, pair[1]), plan.target_lam
        )
    loss_shares = SharePerExample(plan, dim) if shares is None else shares
    return interpolate_per_share(criterion, torch_loss, evaluate, (own, pair[1]), loss_shares, dim)


def _discrete_by_rows(value: Any, plan: MixPlan, dim: int) -> Any:
    """Return the partners' rows of discrete tensors, and other tensors (already mixed) as is."""

    def partner(_: str, leaf: Tensor) -> Tensor:
        return leaf if is_continuous(leaf) else of_partners(leaf, plan, dim)

    return map_leaves(partner, value)


def _with_comparison_check(
    arguments: Arguments, call: Call, roles: Roles, batch: int, dim: int
) -> tuple[Call, Any]:
    """Return the call with aliases of the outputs, and a callback for its first result."""
    name = name_of(arguments.criterion)
    if arguments.torch_loss is not None:
        if arguments.torch_loss.compares:
            _warn(name)
        return call, None
    aliases = _comparisons.Aliases(batch, dim)
    new = {key: aliases.replace_in(call[key]) for key in (roles.output, *roles.outputs)}

    def warn_if_compared(result: Any) -> None:
        if aliases.compared_in(result):
            _warn(name)

    return call.replace(new), warn_if_compared


def _warn(name: str) -> None:
    warn(
        f"{name} compares the examples of a batch with each other, so it has no mixed target. Its "
        f"loss is computed once with all own targets, weighted by lam, and once with all partners' "
        f"targets, weighted by 1 - lam. If this is not intended, compute it on an unmixed pass, in "
        f"mixup.paused()."
    )


def _warn_of_order(
    criterion: Criterion,
    evaluations: Evaluations,
    call: Call,
    roles: Roles,
    target: dict[Key, Any],
    batch: int,
    dim: int,
) -> None:
    """Warn if the criterion reads something of each example that it is not given."""
    from manifold_mixup._target.order import order_matters  # only the first batch needs it

    # A compiled one would be compiled once more, without gradients.
    plain = uncompiled(criterion)

    def run(call: Call) -> Any:
        return evaluations.run(plain, call)

    if order_matters(run, call, roles, target, batch, dim):
        given = [leaf.shape for value in target.values() for _, leaf in leaves(value)]
        pairs = any(shape[dim : dim + 2] == (batch, batch) for shape in given)
        warn(_ORDER.format(name_of(criterion)) + (_PAIRS.format(batch) if pairs else ""))


def require_rows(y: Any, batch: int, dim: int = 0, what: str = "the target") -> None:
    """Raise unless every tensor of a target holds the batch at ``dim``, if it has that many.

    Raises:
        TypeError: a value is neither a tensor nor None.
        ValueError: that dimension of a tensor is not the batch.
    """
    for path, leaf in all_leaves(y):
        if leaf is None or (isinstance(leaf, Tensor) and holds_batch(leaf.shape, batch, dim)):
            continue
        where = f"{what}{path and f' {path!r}'}"
        listed = isinstance(y, list | tuple) and len(y) == batch and not dim
        if not isinstance(leaf, Tensor):
            number = isinstance(leaf, int | float) and listed
            way_out = _AS_TENSOR if number else _BY_INDEX.format(batch) if listed else ""
            raise TypeError(
                f"{where} is a {type(leaf).__name__}, which cannot be mixed. Targets, and "
                f"arguments that belong to them, must be tensors with the batch at dimension "
                f"{dim}; pass anything else as a further argument of the criterion{way_out or '.'}"
            )
        raise ValueError(
            f"the forward pass of this output mixed {batch} examples, but {where} has shape "
            f"{tuple(leaf.shape)}. Its dimension {dim} must be the batch"
            f"{_BY_INDEX.format(batch) if listed else _other_rows(leaf, batch, dim)}"
        )


def _other_rows(leaf: Tensor, batch: int, dim: int) -> str:
    """Return the ways out for a target with fewer or more rows than there are examples."""
    if leaf.ndim > dim and leaf.shape[dim] < batch:
        rows = leaf.shape[dim]
        return _FEWER + (_VIEWS if rows and batch % rows == 0 else "")
    objects = _OBJECTS.format(batch) if leaf.ndim == 2 and leaf.is_floating_point() else ""
    return f"; flatten tokens or pixels inside the criterion, not before it.{objects}"


_POSITIONS = (
    "the model returned a tensor of shape {} that is not mixed, such as a mask, and the plan mixes "
    "by position. Take it out of the output that the criterion is given, and pass it as a separate "
    "argument that with_target= names."
)
_ORDER = (
    "the loss of {} changes if the examples of the batch are put in another order together with "
    "their targets. So it reads something of each example that it is not given, such as a weight "
    "held in an attribute or a variable of the enclosing function, or it takes rows by their "
    "place. For the partners' targets it would need the partners', but reads the examples' own. "
    "Pass it as an argument that "
    "with_target= names: mixup.wrap(criterion, with_target='weight')(output, y, weight=weight)."
)
_PAIRS = (
    " Or an argument of {0} rows and {0} columns holds pairs of examples, whose rows are the "
    "partners' then, but not the columns: make it in the criterion, of the targets."
)
_AS_TENSOR = ". Pass a list of numbers as a tensor: torch.tensor(y)."
_FEWER = (
    ", with a row for each example. To use some of them only, pass all, and select inside the "
    "criterion, by a mask that with_target= declares. Give examples without a label one that the "
    "criterion ignores, as CrossEntropyLoss does with ignore_index; or run them in a pass of their "
    "own, in mixup.paused()."
)
_VIEWS = (
    " For a mean over several views, run each in a pass of its own, all but the first in "
    "mixup.using(mixup.plan)."
)
_BY_INDEX = (
    ". A list with an item for each example, such as its boxes, cannot be mixed, but the losses "
    "can: pass the numbers of the examples as the target, and take the items inside the criterion. "
    "f = mixup.wrap(lambda output, rows: criterion(output, [targets[i] for i in rows])); "
    "f(output, torch.arange({}))."
)
_OBJECTS = (
    " If it has a row for each object, such as a box: make it a list with an item per example, "
    "and pass the numbers of the examples as the target, torch.arange({}); inside the criterion, "
    "take their items."
)
