"""Find out whether the compiler traces a branch of the model that may not run."""

import sys
from types import FrameType

_COND = "CondHigherOrderVariable"  # the compiler's class for torch.cond, which traces both branches


def is_in_branch() -> bool:
    """Return whether the compiler traces a branch of `torch.cond`.

    Call it in Python that the compiler runs while it traces.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if type(frame.f_locals.get("self")).__name__ == _COND:
            return True
        frame = frame.f_back
    return False
