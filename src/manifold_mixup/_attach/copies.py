"""The caller's containers, of which a pass gives a model copies to mix what they hold.

A model may write its outputs into the dict that it is given, for the caller to read them there, as
those of TensorDict do. What it writes into a copy must go into the original as well, and what is
read there must be what the model returned: backward through it requires mixed targets.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor

from manifold_mixup._tree import children, put

_NOTHING = object()


class Copies:
    """The copies that a pass makes of the containers in its arguments.

    Args:
        arguments: the arguments, as the caller passed them.
    """

    def __init__(self, arguments: Any) -> None:
        # The containers and their copies, by id; they are kept, so that no id is given again.
        self._known = {id(container): container for container in _writable(arguments)}
        self._at_first = {at: dict(children(one)) for at, one in self._known.items()}
        self._made: list[tuple[Any, Any, dict[Any, Any]]] = []
        self._aliases: dict[int, Any] = {}  # what an alias is one of, by its id

    def note(self, before: Any, after: Any) -> None:
        """Note the copies in a nested value whose tensors were mixed.

        Args:
            before: the value.
            after: the value of the same structure, with copies of some containers.
        """
        for original, copy in self._copied(before, after):
            self._made.append((original, copy, dict(children(copy))))

    def finish(self, made: Any, handed_out: Any) -> None:
        """Write what was written into copies, and the tensors handed out, into the originals.

        Args:
            made: what the model returned.
            handed_out: what its caller is given, whose tensors may be aliases.
        """
        for original, copy in self._copied(made, handed_out):
            raw = dict(children(original))
            self._made.append((original, copy, raw))
            self._aliases.update((id(new), raw.get(key)) for key, new in children(copy))
        for original, copy, given in reversed(self._made):
            for key, child in children(copy):
                if self._is_news(original, key, child, given.get(key, _NOTHING)):
                    with suppress(Exception):  # a container may refuse it
                        put(original, key, child)

    def _copied(self, before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the known containers in a nested value that differ from those in another one."""
        if before is after or isinstance(before, Tensor):
            return
        if id(before) in self._known:
            self._known[id(after)] = after
            yield before, after
        old, new = dict(children(before)), dict(children(after))
        for key in [key for key in old if key in new]:
            yield from self._copied(old[key], new[key])

    def _is_news(self, original: Any, key: Any, child: Any, given: Any) -> bool:
        """Return whether an original must be told of what its copy holds.

        Args:
            original: the container.
            key: where it is told.
            child: what the copy holds now.
            given: what the copy held at first.
        """
        if child is given or (id(child) in self._known and given is not _NOTHING):
            return False  # a copy in a copy has been taken care of
        # An input of the caller stays as it is, also if it was mixed and handed out.
        at_first = self._at_first.get(id(original), {}).get(key, _NOTHING)
        handed_out = self._aliases.get(id(child), _NOTHING) is given
        return not handed_out or dict(children(original)).get(key) is not at_first


def copies_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Copies | None:
    """Return what keeps account of the copies of a pass; None if none can be written into."""
    arguments = (*args, *kwargs.values())
    return Copies(arguments) if next(_writable(arguments), None) is not None else None


def _writable(value: Any) -> Iterator[Any]:
    """Yield the containers in a nested value that are no tuples or lists."""
    pairs = [] if isinstance(value, Tensor) else children(value)
    if pairs and not isinstance(value, tuple | list):
        yield value
    for _, child in pairs:
        yield from _writable(child)
