"""Find the tensors that functions among an operator's arguments captured.

Higher-order operators are given functions, such as the ``score_mod`` of flex_attention, which may
hold tensors in closures, defaults, partials, containers and attributes of objects.
"""

import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from manifold_mixup._dry_run.holders import ATOMS, attributes_of

_CODE = (type, types.ModuleType, types.BuiltinFunctionType)
_EMPTY = types.CellType()  # the cell of a variable without a value
_OF_EVERY_MODULE = vars(nn.Module()).keys()


def captured(arguments: Any) -> Iterator[Tensor]:
    """Yield each tensor among the arguments of an operator, or held by a function there, once."""
    found, queue = {id(arguments): arguments}, [arguments]
    for value in queue:  # which grows
        for held in _held_by(value):
            if type(held) in ATOMS or id(held) in found:
                continue
            found[id(held)] = held  # kept, so that no id is reused
            if isinstance(held, Tensor):
                yield held
            else:
                queue.append(held)


def _held_by(value: Any) -> Iterable[Any]:
    """List what a function, a container or an object holds, of which code may read any."""
    if isinstance(value, tuple | list | set | frozenset):
        return value
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, nn.Module):
        own = (item for name, item in vars(value).items() if name not in _OF_EVERY_MODULE)
        return [*value.parameters(), *value.buffers(), *own]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY]
        return [*cells, value.__defaults__, value.__kwdefaults__, vars(value)]
    if isinstance(value, _CODE):
        return ()
    return [item for part in attributes_of(value) for item in part.contents]
