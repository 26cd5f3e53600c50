"""Draw a plan: the layer, λ, the partners, and what the way of mixing needs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _autograd
from manifold_mixup._blend import (
    Align,
    Blend,
    Cut,
    Interpolate,
    OneOf,
    PatchUp,
    at_layer,
    check_blend,
    ways_of,
)
from manifold_mixup._draw.beta import check_alpha
from manifold_mixup._draw.draws import Draws, uniform, uniforms
from manifold_mixup._draw.pairs import Pairs, check_pairs, check_targets
from manifold_mixup._draw.partners import PERMUTED, partners
from manifold_mixup._draw.remix import LabelRule, check_rule
from manifold_mixup._noise import DrawnNoise, Noise
from manifold_mixup._plan import MixPlan, check_share, is_permutation, unchecked
from manifold_mixup._tree import map_leaves

PLAIN = Interpolate()


def sample_plan(
    batch: int,
    *,
    layers: Sequence[str],
    alpha: float,
    per_sample: bool = False,
    pairs: Pairs = "any",
    label: LabelRule | None = None,
    blend: Blend = PLAIN,
    noise: Noise | None = None,
    y: Any = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> MixPlan:
    """Draw the layer, λ and the pairs of one training step (paper, section 2).

    The layer is uniform over ``layers``, λ ~ Beta(alpha, alpha) and the pairs are a uniform
    permutation of the batch, unless ``pairs`` or ``label`` makes them depend on the targets.

    Args:
        batch: number of examples, at least 1.
        layers: the eligible layers S, at least one.
        alpha: both parameters of the Beta distribution, above 0 and finite; `Cut`, `PatchUp`
            and `Align` have their own.
        per_sample: draw one λ, or one box, per example instead of one for the batch.
        pairs: who is mixed with whom; see `ManifoldMixup`.
        label: how much each target counts; see `ManifoldMixup`.
        blend: how a state is mixed with its partner; see `ManifoldMixup`.
        noise: noise on the mixed state; see `ManifoldMixup`.
        y: the targets of the batch, if ``pairs`` or ``label`` depends on them.
        generator: a CPU generator; None takes a fresh one seeded by the operating system. The
            global generator is neither read nor advanced.
        device: device of the plan; None is the CPU. Drawing never waits for the device.

    Raises:
        TypeError: ``alpha`` is not a number, ``layers`` is a single name, or ``pairs`` or ``label``
            cannot use ``y``.
        ValueError: ``batch``, ``layers`` or ``alpha`` is out of range, or ``y`` is missing.

    Examples:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> sample_plan(4, layers=["input", "fc1"], alpha=2.0, generator=generator).layer
        'fc1'
    """
    check_alpha(alpha)
    check_batch(batch)
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, but is the single name {layers!r}.")
    if len(layers) == 0:
        raise ValueError("layers must name at least one eligible layer.")
    check_pairs(pairs)
    check_rule(label)
    check_ways(blend, noise, label)
    y = targets_for(pairs, label, y, batch)
    if generator is None:
        generator = torch.Generator("cpu")
        generator.seed()
    return draw_plan(
        batch,
        layers=layers,
        alpha=alpha,
        per_sample=per_sample,
        pairs=pairs,
        label=label,
        blend=blend,
        noise=noise,
        y=y,
        draws=Draws(uniforms(3, generator), generator),
        device=device,
    )


def draw_plan(
    batch: int,
    *,
    layers: Sequence[str],
    alpha: float,
    per_sample: bool,
    pairs: Pairs,
    label: LabelRule | None,
    blend: Blend,
    noise: Noise | None,
    y: Any,
    draws: Draws,
    device: torch.device | str | None,
) -> MixPlan:
    """Draw a plan from settings that were checked, on the CPU whatever the default device is."""
    generator, own_alpha, weight = draws.generator, None, None
    layer = draws.layer(layers)
    plain = blend is PLAIN
    if not plain:
        one = at_layer(blend, layer)
        way = one.at(uniform(generator)) if isinstance(one, OneOf) else one
        own_alpha = way.alpha if isinstance(way, Cut | PatchUp | Align) else None
    lam = draws.lam(alpha, own_alpha, batch if per_sample else None)
    perm = partners(pairs, y, batch, generator)
    if _autograd.in_transform():  # the plan outlives it
        lam, perm = map(_autograd.without_gradients, (lam, perm))
    if not plain:
        from manifold_mixup._draw.ways import weight_of  # few need it, and an import takes time

        weight = weight_of(way, lam, generator)
    plan = unchecked(
        layer,
        lam,
        perm,
        weight=weight,
        label=None if label is None else _label_share(label, lam, y, perm),
        noise=None if noise is None else _drawn(noise, generator),
        repeats=pairs not in PERMUTED and not is_permutation(perm),
    )
    return plan if device is None or device == perm.device else plan.to(device)


def _drawn(noise: Noise, generator: torch.Generator) -> DrawnNoise:
    from manifold_mixup._draw.ways import drawn_noise

    return drawn_noise(noise, generator)


def targets_for(pairs: Pairs, label: LabelRule | None, y: Any, batch: int) -> Any:
    """Return the targets that a plan depends on, on the CPU; None if on none.

    Raises:
        TypeError: ``pairs`` cannot use them.
        ValueError: there are none, or another number of them.
    """
    if not needs_targets(pairs, label):
        return None
    if y is None:
        raise ValueError("pairs and label depend on the targets: pass y.")
    y = map_leaves(lambda _, leaf: leaf.detach().cpu(), y)
    check_targets(pairs, y, batch)
    return y


def needs_targets(pairs: Pairs, label: LabelRule | None) -> bool:
    """Return whether a plan depends on the targets."""
    return pairs != "any" or label is not None


def _label_share(label: LabelRule, lam: Tensor, y: Any, perm: Tensor) -> Tensor:
    """Return the share of each target by a rule.

    Raises:
        TypeError: the rule returns no tensor.
        ValueError: a share lies outside 0 to 1, or there is not one for each row.
    """
    lam = lam.expand(len(perm))
    share = label(lam, y, map_leaves(lambda _, leaf: leaf[perm], y))
    if not isinstance(share, Tensor):
        raise TypeError(f"the rule label must return a tensor, but gave a {type(share).__name__}.")
    share = share.detach().to("cpu", torch.float32)
    check_share("label", share, perm)
    return share


def check_ways(blend: Blend, noise: object, label: LabelRule | None) -> None:
    """Raise unless ``blend`` and ``noise`` are what they should be, and agree with ``label``.

    Raises:
        TypeError: one is of another kind.
        ValueError: both ``blend`` and ``label`` say how much a target counts.
    """
    check_blend(blend)
    if not isinstance(noise, Noise | None):
        given = f"the class {noise.__name__}" if isinstance(noise, type) else repr(noise)
        raise TypeError(f"noise must be Noise(add=, multiply=) or None, but is {given}.")
    others = [way for way in ways_of(blend) if not isinstance(way, Interpolate)]
    if label is not None and others:
        raise ValueError(
            f"blend={others[0]!r} says itself how much each target counts, from the state, and so "
            f"does label. Use label with Interpolate()."
        )


def check_batch(batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, but is {batch}.")
