"""PyTorch's own losses: the roles of their arguments, and whether their targets are mixed."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Criterion = Callable[..., Any]

OUTPUTS = frozenset(
    ("input", "input1", "input2", "log_input", "anchor", "positive", "negative", "var", "log_probs")
)
"""Arguments that the model computes. All others belong to the target."""
WEIGHTS = frozenset(("weight", "pos_weight"))
"""Arguments with a batch dimension only if they have as many dimensions as the output."""
PARTS = frozenset(("linear_weight", "linear_bias"))
"""Arguments that are parts of the criterion."""

# Interpolating the target gives the value or the gradient of the interpolated losses, or the loss
# is ordinary regression.
_MIXED = frozenset(
    (
        "cross_entropy",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "multilabel_soft_margin_loss",
        "poisson_nll_loss",
        "kl_div",
        "mse_loss",
        "l1_loss",
        "smooth_l1_loss",
        "huber_loss",
    )
)
_COMPARING = frozenset(("triplet_margin_loss", "triplet_margin_with_distance_loss"))
_MODULES = {
    "L1Loss": "l1_loss",
    "NLLLoss": "nll_loss",
    "NLLLoss2d": "nll_loss",
    "PoissonNLLLoss": "poisson_nll_loss",
    "GaussianNLLLoss": "gaussian_nll_loss",
    "KLDivLoss": "kl_div",
    "MSELoss": "mse_loss",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "HingeEmbeddingLoss": "hinge_embedding_loss",
    "MultiLabelMarginLoss": "multilabel_margin_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "SoftMarginLoss": "soft_margin_loss",
    "CrossEntropyLoss": "cross_entropy",
    "LinearCrossEntropyLoss": "linear_cross_entropy",
    "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
    "CosineEmbeddingLoss": "cosine_embedding_loss",
    "MarginRankingLoss": "margin_ranking_loss",
    "MultiMarginLoss": "multi_margin_loss",
    "TripletMarginLoss": "triplet_margin_loss",
    "TripletMarginWithDistanceLoss": "triplet_margin_with_distance_loss",
    "CTCLoss": "ctc_loss",
}
# Some are newer than the oldest supported release.
_BY_TYPE = {getattr(nn, name): of for name, of in _MODULES.items() if hasattr(nn, name)}
_BY_FUNCTION = {getattr(F, of): of for of in _MODULES.values() if hasattr(F, of)}


@dataclass(eq=False, repr=False, match_args=False)
class TorchLoss:
    """One of PyTorch's losses.

    Args:
        name: name of its function in `torch.nn.functional`.
        module: the module; None for the function.
        bound: arguments that `functools.partial` bound to the function.
    """

    name: str
    module: nn.Module | None = None
    bound: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that it holds."""
        return tuple(
            name
            for name in sorted(WEIGHTS)
            if getattr(self.module, name, self.bound.get(name)) is not None
        )

    @property
    def compares(self) -> bool:
        """Whether it compares outputs with each other, without a target."""
        return self.name in _COMPARING

    def option(self, name: str, given: Mapping[str, Any], default: Any) -> Any:
        """Return an option of the loss, called with the arguments ``given``."""
        if self.module is not None:
            return getattr(self.module, name, default)
        return given.get(name, self.bound.get(name, default))

    def mixes(self, target: Any, given: Mapping[str, Any]) -> bool:
        """Return whether the target is interpolated rather than the loss.

        It is not if the loss is unreduced: the caller may drop parts depending on the target.
        """
        return (
            self.name in _MIXED
            and isinstance(target, Tensor)
            and target.is_floating_point()
            and self.option("reduction", given, "mean") != "none"
            and not (self.name == "kl_div" and self.option("log_target", given, False))
        )

    def require_no_rows(self, output: Any, batch: int, dim: int = 0) -> None:
        """Raise ValueError if a weight inside the module has one entry per example."""
        for name in self.weights:
            weight = getattr(self.module, name, self.bound.get(name))
            if not isinstance(weight, Tensor) or not isinstance(output, Tensor):
                continue
            place = dim if weight.ndim > dim else 0
            if weight.ndim and weight.ndim == output.ndim and weight.shape[place] == batch > 1:
                raise ValueError(
                    f"the {name} of the criterion has shape {tuple(weight.shape)}: one entry for "
                    f"each of the {batch} examples. It must be mixed with the targets, so pass it "
                    f"in the call: mixup.wrap(F.{self.name})(output, target, {name}={name})."
                )


def as_torch_loss(criterion: Criterion) -> TorchLoss | None:
    """Identify a criterion that is one of PyTorch's losses, by exact type; None if it is not."""
    bound: Mapping[str, Any] = {}
    while isinstance(criterion, functools.partial) and not criterion.args:
        bound = {**criterion.keywords, **bound}
        criterion = criterion.func
    if inspect.ismethod(criterion) and criterion.__name__ in ("forward", "__call__"):
        bound_to: Any = criterion.__self__
        criterion = bound_to
    if isinstance(criterion, nn.Module):
        criterion = eager(criterion)
        name = _BY_TYPE.get(type(criterion))
        altered = "forward" in vars(criterion) or criterion._forward_pre_hooks
        return None if name is None or altered or bound else TorchLoss(name, criterion)
    criterion = uncompiled(criterion)
    name = _BY_FUNCTION.get(criterion) if inspect.isfunction(criterion) else None
    return None if name is None else TorchLoss(name, bound=bound)


def eager(module: nn.Module) -> nn.Module:
    """Return the module inside a compiled module."""
    return getattr(module, "_orig_mod", module)


def uncompiled(criterion: Criterion) -> Criterion:
    """Return the module or the function inside a compiled one."""
    if isinstance(criterion, nn.Module):
        return eager(criterion)
    return getattr(criterion, "_torchdynamo_orig_callable", criterion)


def signature(criterion: Criterion) -> inspect.Signature | None:
    """Return the signature of a criterion's function; None if it has no readable one."""
    function = criterion
    if isinstance(function, functools.partial) and isinstance(function.func, nn.Module):
        inner = eager(function.func).forward
        function = functools.partial(inner, *function.args, **function.keywords)
    if isinstance(function, nn.Module):
        function = eager(function).forward
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):  # a builtin
        return None


def as_lengths(value: Any) -> Any:
    """Return lengths for `torch.nn.CTCLoss` as a tensor if they are Python numbers."""
    is_list = isinstance(value, tuple | list) and value
    if is_list and all(isinstance(number, int) for number in value):
        return torch.tensor(value)
    return value
