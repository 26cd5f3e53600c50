"""Save and restore the state of a criterion: what its namespaces hold, and their containers."""

import operator
from collections import deque
from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import Tensor

from manifold_mixup._target.namespaces import CONTAINERS, Namespace, of_modules, same

_MANY = 1000  # larger containers count as data
_MANY_INSIDE = 10 * _MANY  # so do all that are inside others, if they hold more together
_DEEP = 4  # how deep containers inside others are followed


def tensors_in(namespaces: list[Namespace]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in some namespaces, also parameters and those in containers."""
    for namespace in namespaces:
        for name, value in namespace.variables.items():
            if name == "_parameters":
                named = value.items()
            elif type(value) in CONTAINERS and name not in of_modules():
                named = [(name, item) for item in _items_of(value)]
            else:
                named = [(name, value)]
            for own, item in named:
                if isinstance(item, Tensor):
                    yield f"{namespace.path}{own}", item


def _items_of(container: Any) -> Iterator[Any]:
    """Yield what is in a container and in those inside, unless they are data."""
    for one in _with_inner([container]):
        if not _long(one):
            yield from one.values() if isinstance(one, dict) else one


class SavedState:
    """The contents of some namespaces at the time of construction."""

    def __init__(self, namespaces: list[Namespace]) -> None:
        self._saved: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = []
        self._changes: dict[int, dict[str, Any]] = {}  # by index, for changed namespaces
        self._versions: list[tuple[str, Tensor, int]] = []
        self._containers: list[_Items] = []
        self._containers_after: list[_Items] | None = None  # after the first evaluation
        for namespace in namespaces:
            before, tensors = namespace.contents()
            self._saved.append((namespace.variables, before))
            if namespace.containers:
                self._containers += map(_Items, _with_inner(namespace.containers))
            for path, tensor in tensors:
                self._versions.append((path, tensor, tensor._version))

    def written_tensor(self) -> str:
        """Return the name of a tensor that was written in place since; empty if there is none."""
        for name, tensor, version in self._versions:
            if tensor._version != version:
                return name
        return ""

    def restore(self) -> None:
        """Undo all assignments since, and changes of lists, dicts, sets and queues."""
        for variables, before in self._saved:
            _assign(variables, before)
        for items in self._containers:
            items.restore()

    def record_changes(self) -> None:
        """Record the contents of every namespace that has changed for the first time."""
        if self._containers and self._containers_after is None:
            self._containers_after = [items.now() for items in self._containers]
        for index, (variables, before) in enumerate(self._saved):
            if index not in self._changes and not same(variables, before):
                self._changes[index] = dict(variables)

    def assign_changes(self) -> None:
        """Assign the recorded contents."""
        for index, after in self._changes.items():
            _assign(self._saved[index][0], after)
        for items in self._containers_after or ():
            items.restore()


class _Items:
    """The items of a list, dict, set or queue, from ``start`` on.

    A long list is data, or a log that grows: only what is appended to it is undone.
    """

    def __init__(self, container: Any, start: int | None = None) -> None:
        self._container = container
        if start is None:
            start = len(container) if isinstance(container, list) and _long(container) else 0
        self._start = start
        self._items: Any = None
        if isinstance(container, list):
            self._items = container[start:]
        elif isinstance(container, deque) or not _long(container):
            self._items = container.copy()

    def now(self) -> "_Items":
        """Return the items that the container has now."""
        return _Items(self._container, self._start)

    def restore(self) -> None:
        """Give the container these items again; one with these items may be in a loop."""
        if self._items is None or self._unchanged():
            return
        if isinstance(self._container, list):
            self._container[self._start :] = self._items
        elif isinstance(self._container, deque):
            self._container.clear()
            self._container.extend(self._items)
        else:
            self._container.clear()
            self._container.update(self._items)

    def _unchanged(self) -> bool:
        """Return whether the container holds the same objects, in the same order."""
        now, before = self._container, self._items
        if len(now) - self._start != len(before):
            return False
        if isinstance(now, set):
            return bool(now == before)
        if isinstance(now, dict):
            same = all(map(operator.is_, now.values(), before.values()))
            return same and all(map(operator.is_, now, before))
        return all(map(operator.is_, now[self._start :] if self._start else now, before))


def _with_inner(containers: list[Any]) -> list[Any]:
    """List containers and those inside, such as a queue for each class, unless they are data."""
    found = {id(one): one for one in containers}
    level = containers
    for _ in range(_DEEP):
        level = [
            value
            for one in level
            if not _long(one)
            for value in (one.values() if isinstance(one, dict) else one)
            if type(value) in CONTAINERS and id(value) not in found
        ]
        if not level or sum(map(_copied, level)) > _MANY_INSIDE:
            break
        found.update((id(one), one) for one in level)
    return list(found.values())


def _copied(container: Any) -> int:
    """Return how many items `_Items` keeps of a container."""
    whole = isinstance(container, deque) or not _long(container)
    return 1 + (len(container) if whole else 0)


def _long(container: Any) -> bool:
    return len(container) > _MANY


def _assign(variables: MutableMapping[str, Any], values: dict[str, Any]) -> None:
    if same(variables, values):
        return
    for name in [name for name in variables if name not in values]:
        del variables[name]
    for name, value in values.items():
        if name not in variables or variables[name] is not value:
            variables[name] = value
