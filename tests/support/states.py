"""States in every type and layout, plans for them, and the formula that mixing them is."""

import pytest
import torch

from manifold_mixup import MixPlan

HALF = [torch.float16, torch.bfloat16]
REAL = [*HALF, torch.float32, torch.float64]
DTYPES = [*REAL, torch.complex64, torch.complex128]
# λ for all rows; for each; and for each, with rows that are partners of several others.
EACH_KIND = pytest.mark.parametrize(
    "per_sample", [False, True, "repeats"], ids=["scalar", "per_sample", "repeats"]
)


def draw(batch=6, *, per_sample=False, seed=0, lam=None):
    """Draw a plan, the same every time; or one of the λ that is given."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(batch, generator=generator)
    perm = torch.randperm(batch, generator=generator)
    if per_sample == "repeats":
        perm = torch.randint(max(batch, 1), (batch,), generator=generator)
        perm[1:2] = perm[:1]
    if lam is not None:
        drawn = torch.full((batch,), lam)
    return MixPlan("layer", drawn if per_sample else drawn[0], perm)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def plain(x, plan):
    """Return the formula of mix, with autograd's derivatives."""
    lam = plan.lam.to(x.dtype)
    if lam.ndim:
        lam = lam.view(-1, *[1] * (x.ndim - 1))
    return lam * x + (1 - lam) * x[plan.perm]


def exactly(x, plan):
    """Return the formula in much higher precision than ``x`` has."""
    return plain(x.to(torch.promote_types(x.dtype, torch.float64)), plan)


def assert_rounded_once(mixed, x, plan):
    """Assert the error of a single rounding to x.dtype, after arithmetic in at least float32."""
    eps = torch.finfo(x.dtype).eps
    arithmetic = min(eps, torch.finfo(torch.float32).eps)
    largest = x.abs().max().item() if x.numel() else 0.0
    smallest = torch.finfo(x.dtype).smallest_normal * eps
    torch.testing.assert_close(
        mixed.to(torch.promote_types(x.dtype, torch.float64)),
        exactly(x, plan),
        rtol=0.5 * eps + 2 * arithmetic,
        atol=2 * arithmetic * largest + smallest,
    )


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "strided": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "rows from the end": lambda x: torch.cat([x, x])[x.shape[0] :],
    "expanded": lambda x: x[..., :1].expand_as(x) if x.shape[-1] else x,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
}
