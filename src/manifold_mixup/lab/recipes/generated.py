"""Names of generated data: ``NAME:SEED`` is the draw of a seed, such as ``spirals:3``."""

GENERATED = ("mnist-1d", "spirals", "spirals-100")
"""The data sets that can be drawn anew. Without a seed, a name is their usual draw."""
SPIRALS = ("spirals", "spirals-100")
LARGEST = 2**32 - 1_000_001
"""The greatest seed: further test signals of MNIST-1D have the seed 1,000,000 above it."""


def with_seed(name: str, seed: int) -> str:
    """Return the name of a draw of generated data."""
    return f"{name}:{seed}"


def split(name: str) -> tuple[str, int | None]:
    """Return the name of the data without the seed of their draw, and that seed.

    Names of other data, or with another seed than 0 to `LARGEST`, are returned whole, with None.
    """
    source, _, seed = name.partition(":")
    valid = seed.isascii() and seed.isdecimal() and str(int(seed)) == seed and int(seed) <= LARGEST
    return (source, int(seed)) if source in GENERATED and valid else (name, None)


def source(name: str) -> str:
    """Return the name of the data without the seed of their draw."""
    return split(name)[0]


def fault(name: str, known: tuple[str, ...]) -> str:
    """Return what is wrong with the seed of a draw of known data, or ""."""
    source, colon, seed = name.partition(":")
    if not colon or source not in known or split(name)[1] is not None:
        return ""
    if source not in GENERATED:
        return (
            f"{name} asks for a draw of {source}, which cannot be drawn with a seed. Only "
            f"{', '.join(GENERATED)} can."
        )
    return (
        f"the seed of the draw {name} is {seed!r}. Expected a whole number from 0 to {LARGEST}, "
        f"such as {source}:3."
    )
