"""Isolate the evaluations of one criterion: none may see what another one changed."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from manifold_mixup._target.arguments import Call, name_of
from manifold_mixup._target.losses import Criterion
from manifold_mixup._target.namespaces import Namespace, namespace_of
from manifold_mixup._target.state import SavedState
from manifold_mixup._target.values import Values
from manifold_mixup._tree import leaves


class Evaluations:
    """The evaluations of a criterion for one batch, each starting from the same state.

    Assignments (to an attribute, a counter, a variable of an enclosing function) and changes of
    lists, dicts, sets and queues are undone before the next evaluation. Finally, the state after
    the first evaluation, with the own targets, is restored. In-place writes cannot be undone and
    are refused. They are detected by PyTorch's version counters, and on the first batch by values:
    the counters miss writes through ``.data`` or NumPy, and into tensors in lists and dicts.

    Args:
        criterion: the criterion.
        call: the arguments of its call.
        namespaces: the namespaces in which the criterion keeps its state.
        first: called with the first result.
        by_values: whether writes are to be detected by values, too.
    """

    def __init__(
        self,
        criterion: Criterion,
        call: Call,
        namespaces: list[Namespace],
        first: Callable[[Any], None] | None = None,
        *,
        by_values: bool = False,
    ) -> None:
        self._first = first
        self._values = Values(namespaces) if by_values else None
        self.criterion = criterion
        self._call = call
        self._given = [(tensor, tensor._version) for tensor in _tracked(call)]
        self._state = SavedState(namespaces)
        self._ran = False
        self._copies: dict[int, SavedState] = {}

    def run(self, criterion: Criterion, call: Call) -> Any:
        """Evaluate the criterion, or a copy of it with another reduction.

        Raises:
            RuntimeError: it wrote in place into its arguments or its own tensors.
        """
        if criterion is not self.criterion and (namespace := namespace_of(criterion)) is not None:
            self._copies.setdefault(id(criterion), SavedState([namespace])).restore()
        if self._ran:
            self._state.restore()
        self._ran = True
        result = call.run(criterion)
        self._require_unwritten()
        self._state.record_changes()
        if self._first is not None:
            self._first(result)
            self._first = None
        return result

    def restore_first_state(self) -> None:
        """Restore the state after the first evaluation."""
        self._state.assign_changes()

    def _require_unwritten(self) -> None:
        for tensor, version in self._given:
            if tensor._version != version:
                raise RuntimeError(self._written(tensor))
        name, values = self._state.written_tensor(), self._values
        if not name and values is not None:
            name, self._values = values.changed(), None
        if name:
            raise RuntimeError(self._changed(name))

    def _written(self, tensor: Tensor) -> str:
        places = [
            key if isinstance(key, str) else f"argument {key}"
            for key in (*range(len(self._call.args)), *self._call.options)
            if any(leaf is tensor for _, leaf in leaves(self._call[key]))
        ]
        return (
            f"{name_of(self.criterion)} writes in place into {places[0]} (of shape "
            f"{tuple(tensor.shape)}), but it is evaluated twice, for the own targets and for the "
            f"partners', and the second evaluation would see what the first has written. Clone the "
            f"tensor first in the criterion: x = x.clone()."
        )

    def _changed(self, name: str) -> str:
        return (
            f"{name_of(self.criterion)} changes its {name!r} in place when it is called, but it is "
            f"evaluated twice, for the own targets and for the partners', and the second "
            f"evaluation would see the change. Assign a new tensor instead of writing into the old "
            f"one, update it outside the criterion once per batch, or, if it does not change in "
            f"eval mode, wrap the criterion in eval mode."
        )


def _tracked(call: Call) -> list[Tensor]:
    """List the tensors of a call that have a version counter."""
    found = []
    for value in (*call.args, *call.options.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif not (value is None or isinstance(value, str | int | float)):
            found += [leaf for _, leaf in leaves(value)]
    return [tensor for tensor in found if not tensor.is_inference()]
