"""The results of `analyze theory` as Markdown."""

from collections.abc import Iterator, Sequence
from statistics import median

from manifold_mixup.lab.analyze.theory import Point

READING = """\
**What the theorem states.** With d classes and a hidden state of at least d − 1 dimensions, some
representation and some *affine* classifier reduce the mixup objective to 0: the classifier then
maps mixed states exactly to the mixed targets. The closed form shows that an affine classifier
needs d − 1 dimensions: each missing dimension adds the same amount.

**What it does not state.** d − 1 dimensions are sufficient, but not necessary. A flexible
classifier comes close to 0 with fewer, since it need not be affine away from mixed states. In
three or more dimensions, the segments between the classes need not intersect, so the position of
a state on its segment determines its target. The MLP's values are upper bounds; more units and
steps reduce them. The theorem needs a loss that can reach 0, such as the squared error here. The
minimum of the cross-entropy is the entropy of the mixed targets, and a softmax is not affine.

**The corollary.** Beyond d − 1 dimensions, a class may vary in the null space of Aᵀ without
effect. The null space has dimension dim(H) − d + 1 for the solution of the proof. A solution found
from a random start has another bias, AᵀH of rank d, and one dimension less."""


def theory_table(points: Sequence[Point], *, classes: int, alpha: float) -> str:
    """Return the results for each dimension as a table, with an explanation."""
    return "\n".join([*_lines(points, classes, alpha), "", READING, ""])


def _lines(points: Sequence[Point], classes: int, alpha: float) -> Iterator[str]:
    seeds = len(points[0].affine)
    yield f"# Theorem 1: d = {classes} classes, α = {alpha:g}\n"
    yield (
        f"The mixup objective J: the expected squared error over pairs of different classes and "
        f"λ ~ Beta({alpha:g}, {alpha:g}), with one hidden state per class. Found: median of "
        f"{seeds} random start{'' if seeds == 1 else 's'}.\n"
    )
    yield (
        "| dim(H) | affine, closed form | affine, found | MLP, found | rank AᵀH, found | "
        "dim null(Aᵀ), found | rank AᵀH, of the proof | dim null(Aᵀ), of the proof |"
    )
    yield f"|---|{'---:|' * 7}"
    for point in points:
        proof = point.constructed
        cells = (
            str(point.dim),
            f"{point.least:.4f}",
            _number(median(point.affine)),
            _number(median(point.mlp)),
            str(point.found.rank),
            str(point.found.free),
            "" if proof is None else str(proof.rank),
            "" if proof is None else str(proof.free),
        )
        yield f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:.4f}" if value >= 5e-5 else f"{value:.0e}"
