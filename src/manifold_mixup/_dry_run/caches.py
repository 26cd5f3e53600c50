"""Read the entries of `functools.lru_cache` and `cache`, and remove those a dry run added."""

import functools
import gc
from typing import Any

# The type of functions memoized by the standard library.
Cache: Any = functools._lru_cache_wrapper


def entries_of(cache: Any) -> dict[Any, Any] | None:
    """Return the dict in which a cache keeps its entries; None if it cannot be identified."""
    inside = gc.get_referents(cache)
    # Results, which may also be dicts, come first, and attributes of the function last.
    dicts = [held for held in inside if type(held) is dict and held is not vars(cache)]
    if not dicts or len(dicts[-1]) != cache.cache_info().currsize:
        return None
    return dicts[-1]


def is_bounded(cache: Any) -> bool:
    """Return whether a cache is bounded; its dict then holds links instead of results."""
    return cache.cache_info().maxsize is not None


def results_of(cache: Any) -> list[Any]:
    """List the objects that a bounded cache holds; its order of use is kept in C.

    Its dict is left out: a full cache puts a new result into the link of one it drops, so the
    earlier dict would return the new result for the dropped key.
    """
    if not is_bounded(cache):
        return []
    entries = entries_of(cache)
    return [held for held in gc.get_referents(cache) if held is not entries]


def read_keys(cache: Any) -> list[Any] | None:
    """Copy the keys of a cache; None if they cannot be identified."""
    entries = entries_of(cache)
    return None if entries is None else list(entries)


def forget_new(cache: Any, keys: list[Any] | None) -> None:
    """Remove all entries from a cache except those it had before.

    Args:
        cache: a bounded cache.
        keys: the earlier result of `read_keys`.
    """
    if keys == []:
        cache.cache_clear()
        return
    entries = entries_of(cache)
    if keys is None or entries is None:
        return
    known = set(map(id, keys))
    for key in [key for key in entries if id(key) not in known]:
        del entries[key]  # functools tolerates the orphaned link
