"""Settings of the C library's allocator, so that each step reuses the memory of the last."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # constants of malloc.h
_ALL = 2**31 - 1  # bytes, the largest value that mallopt accepts


def keep_freed() -> bool:
    """Make glibc keep freed memory for the next step instead of returning it to the system.

    By default, glibc returns freed blocks above 32 MB, and the end of its heap, to the system. A
    training step allocates and frees the same hundreds of megabytes each time, and the system
    zeroes every page that it hands out again. The setting applies to the whole process.

    Returns:
        Whether the C library accepted the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(option, _ALL) == 1 for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD)
    )
