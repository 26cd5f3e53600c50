"""The ways in which a state is mixed with its partner: interpolated, cut, or chosen by features."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

Dims = int | Sequence[int] | Mapping[str, int | Sequence[int]] | None
"""Dimensions of a state that are positions; for all layers, or for each layer by its name."""


@dataclass(frozen=True)
class Interpolate:
    """``λ h + (1 - λ) h_p`` (Manifold Mixup; at the input, mixup). Its α is that of the model."""


@dataclass(frozen=True)
class Cut:
    """A box of positions comes from the partner (CutMix, Yun et al., 2019, Eq. 1), at any layer.

    The box has the share 1 - λ of the positions, with its sides in the ratio of the state's, and a
    uniform centre; what lies outside the state is cut off. The target's share is that of the
    positions really kept. Sides are rounded to the nearest position; the authors truncate them
    to even numbers, which at a map of 4 × 4 leaves three sizes.

    Args:
        alpha: λ ~ Beta(alpha, alpha).
        dims: the dimensions of a state that are positions, as ``(2, 3)`` of ``(batch, channels,
            height, width)``; or a dict of them by layer. None finds them from the model's
            operators.

    Raises:
        TypeError: ``alpha`` is not a number, or ``dims`` holds no integers.
        ValueError: an argument is out of range.
    """

    alpha: float = 1.0
    dims: Dims = None

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)
        _check_dims(self.dims)


@dataclass(frozen=True)
class PatchUp:
    """Patches of features come from the partner, or are interpolated (PatchUp, Faramarzi, 2020).

    Patches begin at each position and channel with a probability that leaves about ``1 - share``
    of the features. One draw serves the whole batch. Hard patches come from the partner; soft ones
    are interpolated by λ. The target's share is the mean weight of a feature; that of a position,
    if the target has positions, is the mean weight of the features there. If several tensors are
    mixed together, all channels have the same patches.

    Args:
        block: the sides of a patch in positions, odd, at most those of the state.
        share: γ, about the share of features in patches, above 0 and at most 1; None takes the
            authors' 0.75 for soft patches and 0.5 for hard ones.
        soft: whether patches are interpolated.
        alpha: λ ~ Beta(alpha, alpha).
        dims: as those of `Cut`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.
    """

    block: int = 7
    share: float | None = None
    soft: bool = True
    alpha: float = 2.0
    dims: Dims = None

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)
        _check_dims(self.dims)
        whole = isinstance(self.block, int) and not isinstance(self.block, bool)
        if not whole or self.block < 1 or self.block % 2 == 0:
            raise ValueError(
                f"block must be an odd number of positions, so that a patch has a centre, but is "
                f"{self.block!r}."
            )
        if self.share is not None and not (_is_number(self.share) and 0 < self.share <= 1):
            raise ValueError(f"share must be above 0 and at most 1, but is {self.share!r}.")

    @property
    def rate(self) -> float:
        """γ, about the share of features in patches."""
        if self.share is not None:
            return self.share
        return 0.75 if self.soft else 0.5


@dataclass(frozen=True)
class SimilarityKernel:
    """λ follows the distance of a pair (Similarity Kernel Mixup, Bouniot et al., 2025, Eq. 8).

    λ of each pair becomes the distribution function of Beta(τ, τ) at λ: at a τ above 1 it moves to
    0 or 1, below 1 to ½. With ``d`` the squared distance of the pair's states over its mean in the
    batch, ``τ = exp((d - 1) / (2 tau_std²)) / tau_max``: near pairs are mixed most. States of the
    mixed layer decide, without their gradient; so the plan is complete when the layer has run.

    Args:
        tau_max: above 0; the average pair has ``τ = 1 / tau_max``.
        tau_std: width of the kernel, above 0.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is not above 0 and finite.
    """

    tau_max: float = 1.0
    tau_std: float = 0.5

    def __post_init__(self) -> None:
        _check_positive("tau_max", self.tau_max)
        _check_positive("tau_std", self.tau_std)


@dataclass(frozen=True)
class Align:
    """Positions of one state are moved onto the other's, then both are interpolated (AlignMixup).

    Venkataramanan et al., 2022, Eq. 6 to 8: a coin says which of the two is moved, by the transport
    plan between their positions. The cost of moving is the squared distance of the features over
    its mean. The state decides, without its gradient; so the plan is complete when the layer has
    run. It is meant for the last map of a network.

    Args:
        alpha: λ ~ Beta(alpha, alpha).
        epsilon: weight of the plan's entropy, above 0: the larger, the more positions are averaged.
        rounds: rounds of Sinkhorn's algorithm, at least 1.
        dims: as those of `Cut`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.
    """

    alpha: float = 2.0
    epsilon: float = 0.1
    rounds: int = 100
    dims: Dims = None

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)
        _check_positive("epsilon", self.epsilon)
        _check_dims(self.dims)
        if not isinstance(self.rounds, int) or isinstance(self.rounds, bool) or self.rounds < 1:
            raise ValueError(f"rounds must be an integer of at least 1, but is {self.rounds!r}.")


Way = Interpolate | Cut | PatchUp | SimilarityKernel | Align


@dataclass(frozen=True, init=False)
class OneOf:
    """One of several ways for each batch, with probabilities proportional to their weights.

    Args:
        ways: pairs of a way and its weight, above 0.

    Raises:
        TypeError: an entry is not a pair of a way and a number.
        ValueError: there is no way, or a weight is not above 0 and finite.

    Examples:
        >>> from manifold_mixup import Cut, Interpolate
        >>> OneOf((Interpolate(), 1), (Cut(alpha=1.0), 1)).ways[1]
        (Cut(alpha=1.0, dims=None), 1)
    """

    ways: tuple[tuple[Way, float], ...]

    def __init__(self, *ways: tuple[Way, float]) -> None:
        if not ways:
            raise ValueError("OneOf needs at least one pair of a way and its weight.")
        for entry in ways:
            if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], Way)):
                raise TypeError(
                    f"OneOf takes pairs such as (Cut(), 0.5), a way and its weight, but got "
                    f"{entry!r}."
                )
            _check_positive(f"the weight of {entry[0]!r}", entry[1])
        object.__setattr__(self, "ways", tuple(ways))

    def at(self, number: float) -> Way:
        """Return the way that a uniform number, from 0 to below 1, chooses."""
        left = number * sum(weight for _, weight in self.ways)
        for way, weight in self.ways:
            left -= weight
            if left < 0:
                return way
        return self.ways[-1][0]


Blend = Way | OneOf | Mapping[str, Way | OneOf]
"""One way for all layers, or one for each by its name, ``"*"`` for the others."""
OTHERS = "*"


def check_blend(blend: object) -> None:
    """Raise TypeError unless ``blend`` is a way of mixing, or ways by layer."""
    for one in blend.values() if isinstance(blend, Mapping) else [blend]:
        if not isinstance(one, Way | OneOf):
            given = f"the class {one.__name__}" if isinstance(one, type) else repr(one)
            raise TypeError(
                f"blend must be Interpolate(), Cut(), PatchUp(), SimilarityKernel(), Align() or "
                f"OneOf((way, weight), ...), or a dict of them by layer, but is {given}."
            )


def at_layer(blend: Blend, layer: str) -> Way | OneOf:
    """Return the way, or the several, of a layer.

    Raises:
        ValueError: ``blend`` is by layer, and does not name this one.
    """
    if type(blend) is Interpolate or not isinstance(blend, Mapping):
        return blend
    found = blend.get(layer) or blend.get(OTHERS)
    if found is None:
        raise ValueError(
            f"blend names the ways of {list(blend)}, but not that of the eligible layer {layer!r}. "
            f"Name it too, or all others by '*'."
        )
    return found


def require_layers(blend: Blend, layers: Iterable[str]) -> None:
    """Raise ValueError unless a blend by layer names the eligible layers, and its dims agree."""
    layers = list(layers)
    if isinstance(blend, Mapping):
        unknown = [name for name in blend if name not in (*layers, OTHERS)]
        if unknown:
            raise ValueError(
                f"blend names the way of {unknown[0]!r}, but the eligible layers are {layers}."
            )
    for layer in layers:
        dims_at(blend, layer)


def ways_of(blend: Blend) -> tuple[Way, ...]:
    """List the ways that a blend may take."""
    if isinstance(blend, Mapping):
        return tuple(way for one in blend.values() for way in ways_of(one))
    return tuple(way for way, _ in blend.ways) if isinstance(blend, OneOf) else (blend,)


def has_positions(way: Way) -> bool:
    """Return whether a way weighs a state by its positions."""
    return isinstance(way, Cut | PatchUp | Align)


def dims_at(blend: Blend, layer: str) -> tuple[int, ...] | None:
    """Return the dimensions that were declared to be positions at a layer, in order, if any were.

    Raises:
        ValueError: several ways declare others.
    """
    declared = set()
    for way in ways_of(at_layer(blend, layer)):
        dims = way.dims if isinstance(way, Cut | PatchUp | Align) else None
        dims = dims.get(layer) if isinstance(dims, Mapping) else dims
        if dims is not None:
            declared.add((dims,) if isinstance(dims, int) else tuple(sorted(dims)))
    if len(declared) > 1:
        raise ValueError(
            f"blend declares the dimensions {' and '.join(map(str, sorted(declared)))} of layer "
            f"{layer!r} to be positions: give all its ways the same dims."
        )
    return next(iter(declared), None)


def _check_dims(dims: Dims) -> None:
    for given in dims.values() if isinstance(dims, Mapping) else [dims]:
        parts = () if given is None else (given,) if isinstance(given, int) else tuple(given)
        if not all(isinstance(dim, int) and not isinstance(dim, bool) for dim in parts):
            raise TypeError(f"dims must hold integers, as in (2, 3), but is {dims!r}.")
        fits = len(set(parts)) == len(parts) <= 3 and (given is None or parts)
        if not fits or not all(dim >= 0 for dim in parts):
            raise ValueError(
                f"dims must hold one to three different dimensions, counted from 0, but is "
                f"{dims!r}."
            )


def _check_positive(name: str, value: object) -> None:
    if not _is_number(value):
        raise TypeError(f"{name} must be a number, but is a {type(value).__name__}.")
    if not (value > 0 and math.isfinite(value)):  # type: ignore[operator, arg-type]
        raise ValueError(f"{name} must be above 0 and finite, but is {value}.")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
