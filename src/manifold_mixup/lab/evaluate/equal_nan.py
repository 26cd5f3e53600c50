"""Equality of values that hold numbers which were not computed."""

import math
from typing import Any


class EqualNaN:
    """The base of a dataclass whose NaNs equal each other, for ``@dataclass(eq=False)``.

    Equal values stay equal in another process and when they are read again. Python takes a NaN to
    equal itself only where it is the same object, and since 3.13 not there either, if the two are
    fields of dataclasses.
    """

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and math.isnan(value):
                object.__setattr__(self, name, math.nan)

    def __reduce__(self) -> tuple[type["EqualNaN"], tuple[Any, ...]]:
        return type(self), self._values()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()  # one NaN is the same object as the other

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[Any, ...]:
        return tuple(vars(self).values())
