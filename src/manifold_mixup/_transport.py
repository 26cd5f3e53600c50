"""Transport: positions of one state moved onto those of another (AlignMixup)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from manifold_mixup._interpolate import over_rows


@dataclass(frozen=True, eq=False)
class Aligned:
    """Positions of one of two states are moved onto the other's before they are interpolated.

    Args:
        moves_own: whether the example's own positions are moved onto the partner's; otherwise the
            partner's onto its own.
        epsilon: weight of the entropy of the transport plan.
        rounds: the most rounds of Sinkhorn's algorithm.
    """

    moves_own: bool
    epsilon: float
    rounds: int

    def between(self, own: Tensor, partner: Tensor) -> "Transport":
        """Return the transport plan of two states, without their gradient.

        Sinkhorn's algorithm (Cuturi, 2013) with uniform marginals, in logarithms; the cost is the
        squared distance of two positions over its mean in the pair.

        Args:
            own: the states, ``(batch, positions, features)``.
            partner: those of the partners.
        """
        own, partner = (_real(part.detach()) for part in (own, partner))
        with torch.autocast(own.device.type, enabled=False):
            return self._plan(own, partner)

    def _plan(self, own: Tensor, partner: Tensor) -> "Transport":
        cost = torch.cdist(own, partner).square()
        cost = cost / cost.mean((1, 2), keepdim=True).clamp(min=torch.finfo(cost.dtype).tiny)
        score = -cost / self.epsilon
        rows = torch.zeros_like(score[:, :, :1])
        columns = torch.zeros_like(score[:, :1])
        for _ in range(self.rounds):
            rows = -(score + columns).logsumexp(2, keepdim=True)
            columns = -(score + rows).logsumexp(1, keepdim=True)
        moved = (score + rows + columns).exp()
        # Of the side that is moved to, each position gets a share of one, to the last digit.
        total = moved.sum(1 if self.moves_own else 2, keepdim=True)
        return Transport(moved / total, self.moves_own)


@dataclass(frozen=True, eq=False)
class Transport:
    """Where positions are moved.

    Args:
        shares: the share that position ``j`` of the partner has in position ``i`` of the example,
            ``(batch, positions, positions)``.
        moves_own: as in `Aligned`.
    """

    shares: Tensor
    moves_own: bool

    def __repr__(self) -> str:
        what = "own positions" if self.moves_own else "the partner's positions"
        return f"Transport(of {what}, {tuple(self.shares.shape)})"

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Transport":
        """Return the transport on a device."""
        return Transport(self.shares.to(device, non_blocking=non_blocking), self.moves_own)

    def mix(self, own: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
        """Return the interpolation of two states after one was moved.

        Args:
            own: the states, ``(batch, positions, features)``.
            partner: those of the partners.
            lam: λ, ``()`` or ``(batch,)``.
        """
        exact = torch.promote_types(own.dtype, torch.float32)
        shares = self.shares.to(own.device, exact)
        one, other = own.to(exact), partner.to(exact)
        with torch.autocast(own.device.type, enabled=False):
            if self.moves_own:
                one = shares.mT @ one
            else:
                other = shares @ other
        share = over_rows(lam.to(own.device, _real(one).dtype), one)
        return torch.lerp(other, one, share.to(exact)).to(own.dtype)


def _real(x: Tensor) -> Tensor:
    if x.is_complex():
        x = torch.view_as_real(x).flatten(-2)
    return x.to(torch.promote_types(x.dtype, torch.float32))
