"""What `functools.lru_cache` and `cache` remember, and how to take back what a look added."""

import functools
import gc
from typing import Any

# Whatever is memoized by the standard library.
Cache: Any = functools._lru_cache_wrapper


def entries_of(cache: Any) -> dict[Any, Any] | None:
    """Return the dict in which a cache keeps its entries; None if it cannot be told."""
    inside = gc.get_referents(cache)
    # Results, which may be dicts as well, come first, and attributes of the function last.
    dicts = [held for held in inside if type(held) is dict and held is not vars(cache)]
    if not dicts or len(dicts[-1]) != cache.cache_info().currsize:
        return None
    return dicts[-1]


def is_bounded(cache: Any) -> bool:
    """Return whether a cache forgets: then its dict holds links in the place of results."""
    return cache.cache_info().maxsize is not None


def results_of(cache: Any) -> list[Any]:
    """List what a cache that forgets holds; its order of use is kept in C."""
    return gc.get_referents(cache) if is_bounded(cache) else []


def read_keys(cache: Any) -> list[Any] | None:
    """Copy the keys of a cache; None if they cannot be told."""
    entries = entries_of(cache)
    return None if entries is None else list(entries)


def forget_new(cache: Any, keys: list[Any] | None) -> None:
    """Take out of a cache what is not among the keys it had; what it had is never lost.

    Args:
        cache: a cache that forgets.
        keys: what `read_keys` returned before.
    """
    if keys == []:
        cache.cache_clear()
        return
    entries = entries_of(cache)
    if keys is None or entries is None:
        return
    known = set(map(id, keys))
    for key in [key for key in entries if id(key) not in known]:
        del entries[key]  # its link is an orphan now, for which functools is prepared
