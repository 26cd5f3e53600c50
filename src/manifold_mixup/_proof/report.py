"""The result of a numerical proof, as a table."""

import math
from dataclasses import dataclass
from typing import Literal

from manifold_mixup import _html

Verdict = Literal["proven", "failed", "inconclusive", "skipped"]


@dataclass(frozen=True)
class LayerProof:
    """The result of the numerical proof for one layer.

    Attributes:
        layer: name of the layer.
        verdict: ``"proven"``; ``"failed"``, something bypasses the layer; ``"inconclusive"``, the
            numbers do not decide; ``"skipped"``, the model could not be tested.
        reason: the reason, unless the layer is proven.
        error: maximal distance between the mixed pass's outputs and the permuted outputs.
        difference: minimal distance between the outputs of different examples.
        rounding: the plain model's own error when its examples are reordered.
    """

    layer: str
    verdict: Verdict
    reason: str = ""
    error: float = math.nan
    difference: float = math.nan
    rounding: float = math.nan


@dataclass(frozen=True, repr=False)
class Report:
    """The permutation proof of several layers; its text is a table."""

    layers: tuple[LayerProof, ...]

    @property
    def ok(self) -> bool:
        """Whether every layer is proven."""
        return all(proof.verdict == "proven" for proof in self.layers)

    def __repr__(self) -> str:
        proven = sum(proof.verdict == "proven" for proof in self.layers)
        return f"<{proven} of {len(self.layers)} layers proven>"

    def _repr_html_(self) -> str:
        head = ("layer", "verdict", "error", "examples differ by", "reason")
        return _html.table(head, map(_cells, self.layers), repr(self).strip("<>"))

    def __str__(self) -> str:
        width = max((len(proof.layer) for proof in self.layers), default=0)
        return "\n".join(
            f"{proof.layer:<{width}}  {proof.verdict:<12}  {_numbers(proof)}{proof.reason}".rstrip()
            for proof in self.layers
        )


def _cells(proof: LayerProof) -> tuple[str, ...]:
    numbers = (proof.error, proof.difference)
    shown = ("" if math.isnan(number) else f"{number:.1e}" for number in numbers)
    return (proof.layer, proof.verdict, *shown, proof.reason)


def _numbers(proof: LayerProof) -> str:
    if math.isnan(proof.error):
        return ""
    error, difference = f"error {proof.error:.1e}", f"examples differ by {proof.difference:.1e}"
    return f"{error}, {difference}{'; ' if proof.reason else ''}"


def require_proven(report: Report, *, graphs: bool = False, states: bool = False) -> None:
    """Raise ValueError unless every layer is proven, where the structure does not suffice.

    Args:
        report: the proof.
        graphs: whether the examples are graphs.
        states: whether the model kept tensors of an earlier batch. If neither, it runs with one
            batch size only.
    """
    if not report.ok:
        once = "the model runs with one batch size only, so its"
        why = "the examples are graphs, so their" if graphs else once
        why = "the model kept tensors of the batch before, so its" if states else why
        raise ValueError(
            f"{why} structure alone is not conclusive, and the numerical proof does not prove "
            f"every layer:\n{report}\n"
            f"Name layers that are proven, or set check=False."
        )
