"""The options of a command, read from its dataclass; help pages and typo checks use them."""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

_VALUES = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


class Option(NamedTuple):
    """An option, or a positional argument.

    Attributes:
        flags: its spellings, such as ``("--flip", "--no-flip")``; empty for a positional argument.
        value: the placeholder of its value, such as ``"INT"``; empty for a flag.
        text: its description.
        default: its default as text; empty if there is none to show.
        group: its heading on the help page; empty for the standard one.
    """

    flags: tuple[str, ...]
    value: str
    text: str
    default: str
    group: str = ""


def read(kind: type, default: Any = None) -> tuple[Option, ...]:
    """Return the options of a command.

    Args:
        kind: its dataclass. A field that is itself a dataclass is replaced by its fields.
        default: an instance with the defaults; None for those of the class.
    """
    return tuple(_options(kind, default, group=""))


def subcommands(kind: type) -> dict[str, type]:
    """Map the names of a command's subcommands to their dataclasses."""
    hints = get_type_hints(kind, include_extras=True)
    result: dict[str, type] = {}
    for hint in hints.values():
        for type_ in get_args(_bare(hint)):
            for mark in getattr(type_, "__metadata__", ()):
                if isinstance(name := getattr(mark, "name", None), str):
                    result[name] = _bare(type_)
    return result


def _options(kind: type, default: Any, group: str) -> Iterator[Option]:
    hints, texts = get_type_hints(kind, include_extras=True), _texts(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        value = _default(field) if default is None else getattr(default, field.name)
        if dataclasses.is_dataclass(bare := _bare(hint)) and isinstance(bare, type):
            yield from _options(bare, value, texts[field.name].rstrip("."))
        else:
            yield _option(field.name, hint, value, texts.get(field.name, ""), group)


def _option(name: str, hint: Any, value: Any, text: str, group: str) -> Option:
    marks = getattr(hint, "__metadata__", ())
    words = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), None)
    hint_mark = next((mark for mark in marks if getattr(mark, "help_behavior_hint", None)), None)
    default = hint_mark.help_behavior_hint if hint_mark else _in_words(value)
    dashed = name.replace("_", "-")
    flags: tuple[str, ...] = (f"--{dashed}",)
    if any("Positional" in repr(mark) for mark in marks):
        flags = ()
    elif _bare(hint) is bool:
        flags = (f"--{dashed}", f"--no-{dashed}")
    return Option(flags, words or _value(_bare(hint)), text, default, group)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _in_words(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "(required)"
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"(default: {'yes' if value else 'no'})"
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"(default: {shown})"


def _bare(hint: Any) -> Any:
    """Return a type without its `Annotated` metadata."""
    return _bare(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _value(hint: Any) -> str:
    """Return the placeholder for a value of a type."""
    if get_origin(hint) in (Union, UnionType):
        parts = [type_ for type_ in map(_bare, get_args(hint)) if type_ is not NoneType]
        return "{True,False}" if parts == [bool] else _value(parts[0])
    if get_origin(hint) is Literal:
        return f"{{{','.join(map(str, get_args(hint)))}}}"
    if get_origin(hint) is tuple:
        return f"[{_value(_bare(get_args(hint)[0]))} ...]"
    return _VALUES.get(hint, "")


def _texts(kind: type) -> dict[str, str]:
    """Return the description of each field, from the docstring below it or ``Attributes:``."""
    texts = dict[str, str]()
    listed = re.search(r"^Attributes:\n(.*)", inspect.cleandoc(kind.__doc__ or ""), re.M | re.S)
    for name, text in re.findall(
        r"^    (\w+): (.*(?:\n      .*)*)", listed[1] if listed else "", re.M
    ):
        text = " ".join(text.split())
        texts[name] = text[:1].upper() + text[1:]
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            texts[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return texts
