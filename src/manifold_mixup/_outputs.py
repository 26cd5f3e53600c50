"""Which of the tensors that a model returns the loss reads: ``outputs=``."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

_Leaf = TypeVar("_Leaf")


def as_paths(outputs: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Turn what a user gave as ``outputs=`` into paths; None stays None, which means all.

    Raises:
        TypeError: it is neither a path nor several.
        ValueError: it is empty.
    """
    if outputs is None:
        return None
    paths = (outputs,) if isinstance(outputs, str) else outputs
    if not isinstance(paths, Iterable) or not all(isinstance(path, str) for path in paths):
        raise TypeError(
            f"outputs names what the loss reads of the model's output, by a path such as 'logits' "
            f"or '0' or by several, but is {outputs!r}."
        )
    paths = tuple(dict.fromkeys(paths))
    if not paths:
        raise ValueError("outputs is empty. Name what the loss reads, or give outputs=None.")
    return paths


def is_named(path: str, outputs: Sequence[str] | None) -> bool:
    """Return whether ``outputs`` names the tensor at ``path``, or a container that holds it."""
    if outputs is None:
        return True
    return any(wanted in ("", path) or path.startswith(f"{wanted}.") for wanted in outputs)


def require_known(paths: Sequence[str], outputs: Sequence[str] | None) -> None:
    """Raise ValueError if one of ``outputs`` names nothing that the model returned.

    Args:
        paths: of the tensors that the model returned.
        outputs: what the user named.
    """
    for wanted in outputs or ():
        if not any(is_named(path, [wanted]) for path in paths):
            seen = ", ".join(map(repr, paths)) if any(paths) else "one tensor"
            raise ValueError(
                f"outputs={wanted!r} is no output of this forward pass, which returned {seen}."
            )
