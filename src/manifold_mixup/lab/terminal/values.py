"""Conversion of arguments to numbers, words and paths, with the message if that fails."""

from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo


class _Kind(NamedTuple):
    read: Callable[[str], Any]
    shown: str
    expected: str


_KINDS = {
    int: _Kind(int, "INT", "a whole number"),
    float: _Kind(float, "FLOAT", "a number"),
    str: _Kind(str, "STR", "a word"),
    Path: _Kind(Path, "PATH", "a path"),
}


def registry() -> "ConstructorRegistry":
    """Return tyro rules that show an optional number as INT instead of INT|None."""
    from tyro.constructors import ConstructorRegistry

    rules = ConstructorRegistry()
    rules.primitive_rule(_rule)
    return rules


def _rule(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[Any] | None":
    from tyro.constructors import PrimitiveConstructorSpec

    kind, optional = _plain(info.type)
    if kind not in _KINDS:
        return None
    read, shown, expected = _KINDS[kind]

    def from_words(words: list[str]) -> Any:
        if optional and words == ["None"]:
            return None
        try:
            return read(words[0])
        except ValueError:
            raise ValueError(f"{words[0]!r} is not {expected}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=shown,
        instance_from_str=from_words,
        is_instance=lambda value: isinstance(value, kind) or (optional and value is None),
        str_from_instance=lambda value: [str(value)],
    )


def _plain(hint: Any) -> tuple[Any, bool]:
    """Return the type without ``None``, and whether it allowed ``None``."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    parts = [part for part in get_args(hint) if part is not NoneType]
    return (parts[0], True) if len(parts) == 1 and len(get_args(hint)) == 2 else (hint, False)
