"""Names of generated data: ``NAME:SEED`` is the draw of a seed, such as ``spirals:3``."""

GENERATED = ("mnist-1d", "spirals")
"""The data sets that can be drawn anew. Without a seed, a name is their usual draw."""


def drawn(name: str, seed: int) -> str:
    """Return the name of a draw of generated data."""
    return f"{name}:{seed}"


def split(name: str) -> tuple[str, int | None]:
    """Return the name of the data without the seed of their draw, and that seed or None."""
    source, _, seed = name.partition(":")
    return (source, int(seed)) if seed.isascii() and seed.isdecimal() else (name, None)


def source(name: str) -> str:
    """Return the name of the data without the seed of their draw."""
    return split(name)[0]
