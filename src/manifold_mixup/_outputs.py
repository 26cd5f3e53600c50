"""The option ``outputs=``: which of the tensors that a model returns the loss reads."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

_Leaf = TypeVar("_Leaf")


def as_paths(outputs: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Turn the option ``outputs=`` into a tuple of paths; None, which means all, stays None.

    Raises:
        TypeError: ``outputs`` is neither a path nor an iterable of paths.
        ValueError: ``outputs`` is empty.
    """
    if outputs is None:
        return None
    paths = (outputs,) if isinstance(outputs, str) else outputs
    if not isinstance(paths, Iterable) or not all(isinstance(path, str) for path in paths):
        raise TypeError(
            f"outputs must be a path of an output that the loss reads, such as 'logits' or '0', or "
            f"several paths, but is {outputs!r}."
        )
    paths = tuple(dict.fromkeys(paths))
    if not paths:
        raise ValueError("outputs is empty. Name what the loss reads, or set outputs=None.")
    return paths


def is_named(path: str, outputs: Sequence[str] | None) -> bool:
    """Return whether ``outputs`` names the tensor at ``path``, or a container that holds it."""
    if outputs is None:
        return True
    return any(wanted in ("", path) or path.startswith(f"{wanted}.") for wanted in outputs)


def require_known(paths: Sequence[str], outputs: Sequence[str] | None) -> None:
    """Raise ValueError unless each of ``outputs`` names something that the model returned.

    Args:
        paths: paths of the tensors that the model returned.
        outputs: the paths that the user named.
    """
    for wanted in outputs or ():
        if not any(is_named(path, [wanted]) for path in paths):
            seen = ", ".join(map(repr, paths)) if any(paths) else "one tensor"
            raise ValueError(
                f"outputs={wanted!r} matches no output of this forward pass, which returned {seen}."
            )
