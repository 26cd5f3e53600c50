"""Recursion with memory that Python's stack does not limit."""

from collections.abc import Callable, Generator
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class MemoizedSearch(Generic[Key, Value]):
    """The values of a function that is defined by itself.

    Args:
        search: a generator of a key, which yields other keys, is sent their values, and returns its
            own. No key may need itself.
    """

    def __init__(self, search: Callable[[Key], Generator[Key, Value, Value]]) -> None:
        self._search = search
        self._known: dict[Key, Value] = {}

    def __call__(self, key: Key) -> Value:
        """Return the value of a key."""
        if key not in self._known:
            self._evaluate(key)
        return self._known[key]

    def _evaluate(self, key: Key) -> None:
        under_way = [(key, self._search(key))]
        answer: Value | None = None  # to what the innermost search asked; None begins it
        while under_way:
            key, search = under_way[-1]
            try:
                wanted = search.send(answer)  # type: ignore[arg-type]
            except StopIteration as end:
                answer = self._known[key] = end.value
                under_way.pop()
                continue
            answer = self._known.get(wanted)
            if wanted not in self._known:
                under_way.append((wanted, self._search(wanted)))
