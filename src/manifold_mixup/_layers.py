"""Resolve names of layers to modules, with helpful errors."""

import contextlib
import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

INPUT = "input"
_WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def is_input(name: str) -> bool:
    """Return whether a layer name is ``"input"`` or ``"input:NAME"``, an input of the model."""
    return name == INPUT or name.startswith(f"{INPUT}:")


# In place of a run's number: all runs of a module.
ALL_RUNS = "*"


def run_name(module: str, run: int | str) -> str:
    """Name a run of a module that runs several times in a pass: ``"encoder.layer@3"``."""
    return f"{module}@{run}"


def split_run(name: str) -> tuple[str, str]:
    """Split the name of a layer into that of its module and its run, which may be empty."""
    module, at, run = name.rpartition("@")
    return (module, run) if at and (run == ALL_RUNS or run.isdecimal()) else (name, "")


def module_name(name: str) -> str:
    """Return the name of a layer's module, without its run."""
    return split_run(name)[0]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own model from inside torch.compile, DDP and checkpoint wrappers."""
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _inner(module: nn.Module) -> nn.Module | None:
    if DistributedDataParallel in type(module).__mro__:  # isinstance asks an abstract class
        return module._modules["module"]
    for name in _WRAPPED:
        if name in module._modules and (child := module._modules[name]) is not None:
            return child
    return None


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Map every layer's name, without wrapper parts, to its module, wrappers included.

    A module with several names in the model appears under the first.
    """
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()
    for name, module in _walk(unwrap(model), ""):
        if unwrap(module) not in seen:
            seen.add(unwrap(module))
            found[name] = module
    del found[""]
    return found


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    if isinstance(unwrap(module), torch.jit.ScriptModule):
        return  # its children run in C++, where hooks do not run
    for child_name, child in unwrap(module).named_children():
        yield from _walk(child, f"{name}.{child_name}" if name else child_name)


def resolve(
    model: nn.Module, layers: str | nn.Module | Iterable[str | nn.Module]
) -> tuple[str, ...]:
    """Turn names, patterns and modules into the names of layers, in the order of the model.

    Args:
        model: the model, wrapped or not.
        layers: names as in ``model.named_modules()``, with or without the wrappers' parts; patterns
            such as ``"encoder.layer.*"``, whose wildcards stay within one part of a name; modules
            of the model; ``"input"`` or ``"input:NAME"``. A name or pattern may end in ``"@3"`` or
            ``"@*"``, for one run, or every run, of a module that runs several times.

    Raises:
        TypeError: an entry is neither a name nor a module.
        ValueError: there is no entry, or an entry matches no layer of the model.
    """
    entries = [layers] if isinstance(layers, str | nn.Module) else list(layers)
    if not entries:
        raise ValueError(
            'layers is empty. Name the eligible layers, for example ["input", "layer1"], or pass '
            "layers=None and example=(one batch) to have them chosen."
        )
    known = named_layers(model)
    names = [name for entry in entries for name in _resolve_one(model, known, entry)]
    order = {name: index for index, name in enumerate(known)}

    def place(name: str) -> tuple[int, int]:
        module, run = split_run(name)
        return order.get(module, -1), int(run) if run.isdecimal() else -1

    return tuple(sorted(dict.fromkeys(names), key=place))


def _resolve_one(model: nn.Module, known: dict[str, nn.Module], entry: object) -> Sequence[str]:
    if isinstance(entry, nn.Module):
        return _unambiguous(model, _names_of(model, known, entry))
    if not isinstance(entry, str):
        raise TypeError(
            f"a layer must be a name or a module, but {entry!r} is a {type(entry).__name__}."
        )
    if is_input(entry):
        return [entry]
    module, run = split_run(entry)
    if run and entry not in known:
        return [run_name(name, run) for name in _resolve_one(model, known, module)]
    return _unambiguous(model, [entry] if entry in known else _matching(model, known, entry))


def _names_of(model: nn.Module, known: dict[str, nn.Module], module: nn.Module) -> list[str]:
    wanted = unwrap(module)
    names = [name for name, module in known.items() if unwrap(module) is wanted]
    if not names:
        raise ValueError(
            f"a {type(module).__name__} was given as a layer, but it is not a submodule of "
            f"{_kind(model)}. Pass a module of this model, or its name."
        )
    return names


def _matching(model: nn.Module, known: dict[str, nn.Module], pattern: str) -> list[str]:
    names = [name for name in known if _matches(name, pattern)]
    if names:
        return names
    for outer in _scripted_around(known, pattern):
        raise ValueError(
            f"layer {pattern!r} is inside the scripted module {outer!r}, which runs in C++, "
            f"where hooks do not run. Name {outer!r} instead."
        )
    alias = _submodule(model, pattern)
    if alias is None:
        raise ValueError(_unknown(model, known, pattern))
    return _names_of(model, known, alias)


def _scripted_around(known: dict[str, nn.Module], name: str) -> list[str]:
    return [
        outer
        for outer, module in known.items()
        if name.startswith(f"{outer}.") and isinstance(unwrap(module), torch.jit.ScriptModule)
    ]


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    """Find a module by another name: a shared module's second name, or one with wrapper parts."""
    for root in (model, unwrap(model)):
        with contextlib.suppress(AttributeError):
            return root.get_submodule(name)
    return None


def _unambiguous(model: nn.Module, names: list[str]) -> list[str]:
    """Return the names unless one of them also means an input, or a run of another module."""
    for name in names:
        other = "the model's input" if is_input(name) else ""
        if split_run(name)[1]:
            other = f"a run of the module {module_name(name)!r}"
        if other:
            raise ValueError(
                f"the module {name!r} of {_kind(model)} cannot be told apart from {other}, which "
                f"has the same name here. Rename the module."
            )
    return names


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _unknown(model: nn.Module, known: dict[str, nn.Module], entry: str) -> str:
    near = difflib.get_close_matches(entry, [*known, INPUT], n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"{_kind(model)} has no layer {entry!r}.{hint} "
        f"find_layers(model, example) lists all {len(known)}."
    )


def _kind(model: nn.Module) -> str:
    return type(unwrap(model)).__name__
