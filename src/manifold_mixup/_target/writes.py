"""Keep the evaluations of one criterion apart: what one of them changes, no other must see."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from manifold_mixup._target.arguments import Call, name_of
from manifold_mixup._target.losses import Criterion
from manifold_mixup._target.state import Holder, State, holder_of
from manifold_mixup._tree import leaves


class Evaluations:
    """The evaluations of a criterion for one batch, each of which finds it as the first one did.

    What is assigned anew (an attribute, a counter, a variable of an enclosing function) is put back
    before the next evaluation; in the end it stays as the first one left it, which saw the targets
    of the examples themselves. What is written in place cannot be put back and is refused. Writes
    count by PyTorch's version counters: those through ``.data`` or NumPy, and changes of lists and
    dicts, count nowhere.

    Args:
        criterion: what is called.
        call: with what it is called.
        holders: where the criterion keeps its state.
        first: called with the first result.
    """

    def __init__(
        self,
        criterion: Criterion,
        call: Call,
        holders: list[Holder],
        first: Callable[[Any], None] | None = None,
    ) -> None:
        self._first = first
        self.criterion = criterion
        self._call = call
        self._given = [(tensor, tensor._version) for tensor in _tracked(call)]
        self._state = State(holders)
        self._ran = False
        self._twins: dict[int, State] = {}

    def run(self, criterion: Criterion, call: Call) -> Any:
        """Evaluate the criterion, or a twin of it with another reduction.

        Raises:
            RuntimeError: it wrote in place into what it was given or what it holds.
        """
        if criterion is not self.criterion and (twin := holder_of(criterion)) is not None:
            self._twins.setdefault(id(criterion), State([twin])).put()
        if self._ran:
            self._state.put()
        self._ran = True
        result = call.of(criterion)
        self._require_unwritten()
        self._state.note()
        if self._first is not None:
            self._first(result)
            self._first = None
        return result

    def settle(self) -> None:
        """Leave the criterion as its first evaluation did."""
        self._state.settle()

    def _require_unwritten(self) -> None:
        for tensor, version in self._given:
            if tensor._version != version:
                raise RuntimeError(self._written(tensor))
        if name := self._state.written():
            raise RuntimeError(self._changed(name))

    def _written(self, tensor: Tensor) -> str:
        places = [
            key if isinstance(key, str) else f"argument {key}"
            for key in (*range(len(self._call.args)), *self._call.options)
            if any(leaf is tensor for _, leaf in leaves(self._call[key]))
        ]
        return (
            f"{name_of(self.criterion)} writes in place into {places[0]} (of shape "
            f"{tuple(tensor.shape)}), but it is evaluated for the targets of the examples and for "
            f"those of their partners, and the second time it would see what the first has "
            f"written. Clone it first in the criterion: x = x.clone()."
        )

    def _changed(self, name: str) -> str:
        return (
            f"{name_of(self.criterion)} changes its {name!r} in place when it is called, but it is "
            f"evaluated for the targets of the examples and for those of their partners, and the "
            f"second time it would work with what the first has changed. Assign a new tensor in "
            f"place of writing into the old one, or update it outside of the criterion, once a "
            f"batch, or wrap the criterion in eval mode if it leaves it then."
        )


def _tracked(call: Call) -> list[Tensor]:
    """List the tensors of a call that count how often they are written to."""
    found = []
    for value in (*call.args, *call.options.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif not (value is None or isinstance(value, str | int | float)):
            found += [leaf for _, leaf in leaves(value)]
    return [tensor for tensor in found if not tensor.is_inference()]
