"""What `analyze theory` found, as Markdown."""

from collections.abc import Iterator, Sequence
from statistics import median

from manifold_mixup.lab.analyze.theory import Point

READING = """\
**What the theorem says.** With d classes and a hidden state of at least d − 1 dimensions, some
representation and some *affine* classifier make the mixup objective 0: the classifier then gives
mixed states exactly the mixed targets. The closed form shows that an affine one can do it no
earlier: every dimension short of d − 1 costs the same.

**What it does not say.** d − 1 dimensions are sufficient and not necessary. A flexible classifier
comes close to 0 with fewer, since it need not be affine where no mixed state lies: in three
dimensions and more the segments between the classes need not meet, and whoever can tell where on
which segment a state lies can tell its target. What the MLP reaches is an upper bound; more units
and steps lower it. The theorem is about a loss that can be 0, such as the squared error here; the
cross-entropy's least value is the entropy of the mixed targets, and a softmax is not affine.

**The corollary.** Beyond d − 1 dimensions a class may spread in the null space of Aᵀ unseen. Its
dimension is dim(H) − d + 1 for the solution of the proof; a solution found from a random start
has a bias of its own, AᵀH of rank d, and one dimension less."""


def theory_table(points: Sequence[Point], *, classes: int, alpha: float) -> str:
    """Render what was found for each dimension, and how to read it."""
    return "\n".join([*_lines(points, classes, alpha), "", READING, ""])


def _lines(points: Sequence[Point], classes: int, alpha: float) -> Iterator[str]:
    seeds = len(points[0].affine)
    yield f"# Theorem 1: d = {classes} classes, α = {alpha:g}\n"
    yield (
        f"The mixup objective J: the expected squared error over pairs of different classes and "
        f"λ ~ Beta({alpha:g}, {alpha:g}), with one hidden state a class. Found: median of {seeds} "
        f"random start{'' if seeds == 1 else 's'}.\n"
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
