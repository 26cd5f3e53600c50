"""Memory of the C library on a CPU: what a step frees, the next one takes again."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h
_ALL = 2**31 - 1  # bytes: the most that can be said


def keep_freed() -> bool:
    """Have freed memory kept for the next step, where the C library is GNU's.

    By its defaults it returns blocks above 32 MB to the system as soon as they are free, and the
    end of its heap too. A training step takes and frees the same hundreds of megabytes each time,
    and the system clears every page before it hands it out again.

    Returns:
        Whether the C library has agreed. It holds for the whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(option, _ALL) == 1 for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD)
    )
