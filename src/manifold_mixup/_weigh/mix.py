"""The public `mix`: mix a tensor by a plan."""

from collections.abc import Sequence

from torch import Tensor

from manifold_mixup import _mix
from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._blend import SimilarityKernel
from manifold_mixup._box import AXES
from manifold_mixup._plan import MixPlan
from manifold_mixup._positions import Positions
from manifold_mixup._weigh.completion import completed, completion_for, needs_completion
from manifold_mixup._weigh.place import Place
from manifold_mixup._weigh.state import mix_state


def mix(
    x: Tensor, plan: MixPlan, batch_dim: int = 0, *, dims: int | Sequence[int] | None = None
) -> Tensor:
    """Mix every row of a batch with its partner.

    Row ``i`` of the result is ``lam[i] * x[i] + (1 - lam[i]) * x[perm[i]]`` (Mix_λ of the paper,
    section 2), computed in at least float32 and rounded once to the dtype of ``x``.

    Args:
        x: hidden state, ``(batch, *features)``, floating point or complex. It is not modified.
        plan: the coefficients and the pairs; its layer is ignored.
        batch_dim: the dimension of ``x`` that holds the batch.
        dims: the dimensions of ``x`` that are positions, if the plan weighs positions; (2, 3) of
            ``(batch, channels, height, width)``.

    Returns:
        The mixed state, with the shape, dtype, device and memory format of ``x``. It can be
        differentiated any number of times.

    Raises:
        TypeError: ``x`` is neither floating point nor complex.
        ValueError: that dimension of ``x`` is not the batch of the plan, or the plan weighs
            positions and does not fit ``dims``.

    Examples:
        >>> import torch
        >>> from manifold_mixup import MixPlan
        >>> plan = MixPlan("fc", lam=torch.tensor(0.75), perm=torch.tensor([1, 0]))
        >>> mix(torch.tensor([[0.0], [10.0]]), plan)
        tensor([[2.5000],
                [7.5000]])
    """
    if not _mix.is_continuous(x):
        raise TypeError(
            f"only floating point states can be mixed, but x is {x.dtype}. For token ids, mix the "
            f"output of the embedding layer."
        )
    if plan.weight is not None or plan.noise is not None:
        return _mix_by_plan(x, plan, batch_dim, dims)
    if 0 < batch_dim < x.ndim:
        return mix(x.movedim(batch_dim, 0), plan).movedim(0, batch_dim).contiguous()
    if x.ndim == 0 or x.shape[0] != plan.perm.shape[0]:
        raise ValueError(
            f"the plan pairs {plan.perm.shape[0]} examples but x has shape {tuple(x.shape)}. Is "
            f"dimension 0 of this tensor the batch?"
        )
    return _mix.apply(x, plan.lam, plan.perm, repeats=plan.repeats)


def _mix_by_plan(
    x: Tensor, plan: MixPlan, batch_dim: int, dims: int | Sequence[int] | None
) -> Tensor:
    """Mix a state by all that a plan says; see `mix`."""
    at = BatchDim(batch_dim) if 0 < batch_dim < x.ndim else None
    if not (at or BatchDim()).fits(tuple(x.shape), plan.batch):
        raise ValueError(
            f"the plan pairs {plan.batch} examples but x has shape {tuple(x.shape)}. Is dimension "
            f"{batch_dim} of this tensor the batch?"
        )
    place = None
    if dims is not None:
        dims = (dims,) if isinstance(dims, int) else tuple(dims)
        others = all(0 <= dim < x.ndim and dim != (at.dim if at else 0) for dim in dims)
        if not others or not 1 <= len(set(dims)) == len(dims) <= AXES:
            raise ValueError(
                f"dims must be one to three different dimensions of x other than the batch, but "
                f"is {dims}, and x has shape {tuple(x.shape)}."
            )
        place = Place(Positions(dims), (1,) * len(dims))
    elif plan.weight is not None and not isinstance(plan.weight, SimilarityKernel):
        raise ValueError(
            f"the plan weighs the positions of x, of shape {tuple(x.shape)}: pass dims=, the "
            f"dimensions that are positions, such as (2, 3)."
        )
    if needs_completion(plan):
        plan = completed(plan, completion_for(plan, x, at, place))
    return mix_state(x, at, plan, None, place)
