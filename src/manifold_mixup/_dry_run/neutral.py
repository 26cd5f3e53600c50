"""Neutralise random operators, so that two forward passes can be compared."""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Named = dict[str, Any]


class Neutral(TorchDispatchMode):
    """Make every random operator return one typical value of its distribution.

    Operators are recognised by their tag, so dropout and stochastic depth are neutralised however
    they are written. A Bernoulli variable is 1 and a uniform variable 0.5. A normal variable is its
    mean plus one standard deviation, because noise of 0 would hide its scale. A permutation is the
    reverse, because the identity would hide that a batch is reordered. Dropout passes its input
    through. Decisions by Python's or NumPy's generator cannot be neutralised.

    Args:
        uniform: value of a uniform variable, to see the effect of another draw.
        bernoulli: value of a Bernoulli variable, for the same purpose.
        reorders: whether a permutation is the reverse; otherwise it is the identity.
    """

    supports_higher_order_operators = True

    def __init__(
        self, uniform: float = 0.5, bernoulli: float = 1.0, *, reorders: bool = True
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: dict[str, Callable[[Named], Any]] = {
            **_VALUES,
            "bernoulli": lambda named: bernoulli,
            "rand": lambda named: uniform,
            "randperm": lambda named: _order(named, reverse=reorders),
            "rand_like": lambda named: uniform,
            "uniform": lambda named: named["from"] + uniform * (named["to"] - named["from"]),
        }

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether PyTorch wraps each call, so that it is not compiled: nothing is here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, neutralised if it is random."""
        if func is DEVICE:
            return device_of(func, args)
        kwargs = dict(kwargs or {})
        if not is_random(func):
            return func(*args, **kwargs)
        named = bind(func, args, kwargs)
        if func is _CHANCES and 0 <= named["p"] <= 1:  # dropout's; drawing takes long
            return named["self"].fill_(self.values["bernoulli"](named))
        named.update(_switches(operator_name(func), named))
        if operator_name(func).startswith("rrelu"):
            named["noise"].copy_(_mean_slopes(named))
        drawn = _call(func, named)
        value = self.values.get(operator_name(func).rstrip("_"))
        return drawn if value is None else _fill(func, drawn, value(named))


# PyTorch dispatches this one at almost every access of a fake tensor in C++.
DEVICE = torch.ops.prim.device.default
_CHANCES = torch.ops.aten.bernoulli_.float


def device_of(func: Any, args: tuple[Any, ...]) -> Any:
    """Run `DEVICE`, for a fake tensor without the modes below."""
    tensor = args[0]
    mode = getattr(tensor, "fake_mode", None)
    if mode is None or mode.in_kernel_invocation:
        return func(*args)
    return tensor.fake_device


class Argument(NamedTuple):
    """An argument of an operator.

    Attributes:
        name: its name.
        default: its default value.
        written: whether the operator writes into it.
        is_out: whether it is the result.
        may_hold_tensors: whether it may be a tensor, or hold some.
    """

    name: str
    default: Any
    written: bool
    is_out: bool
    may_hold_tensors: bool


@functools.cache  # a schema makes its arguments anew at each access
def arguments_of(func: Any) -> tuple[Argument, ...]:
    """List the arguments of an operator, in the order of its schema."""
    return tuple(
        Argument(
            given.name,
            given.default_value,
            given.alias_info is not None and given.alias_info.is_write,
            given.is_out,
            _NUMBERS.fullmatch(str(given.type)) is None,
        )
        for given in func._schema.arguments
    )


# The types of arguments that hold no tensor.
_NUMBERS = re.compile(r"(?:(?:List|Optional|int|float|bool|str|SymInt|Device|Generator)\b|[\[\]])+")


@functools.cache
def is_random(func: Any) -> bool:
    """Return whether the result of an operator is random."""
    return torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())


@functools.cache
def operator_name(func: Any) -> str:
    """Return an operator's name, such as ``add_`` for ``aten::add_.Tensor``."""
    schema = getattr(func, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema is not None else str(func)


def bind(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Named:
    """Map an operator call's argument names to values, in schema order, including defaults."""
    named: Named = {}
    given = len(args)
    for index, argument in enumerate(arguments_of(func)):
        name = argument.name
        if index < given:
            named[name] = args[index]
        else:
            named[name] = kwargs.get(name, argument.default)
    return named


def _call(func: Any, named: Named) -> Any:
    keyword = {argument.name for argument in func._schema.arguments if argument.kwarg_only}
    args = [value for name, value in named.items() if name not in keyword]
    return func(*args, **{name: named[name] for name in named if name in keyword})


def _switches(name: str, named: Named) -> Named:
    """Return the arguments that turn off an operator's own randomness."""
    off: Named = {key: 0.0 for key in ("dropout_p", "dropout") if key in named}
    if name.startswith("rrelu"):
        off["training"] = False
    if name == "native_dropout":
        off["p"] = 0.0
    if name == "_fused_dropout":
        off["p"] = 1.0  # here p is the fraction that is kept
    if "generator" in named:
        off["generator"] = None  # do not advance the caller's generator
    return off


def _mean_slopes(named: Named) -> Tensor:
    """Return what a mean RReLU multiplies its input by, which its backward reads as the noise.

    Backward takes what the caller asked for, a random slope; without one, the noise is memory that
    nothing was written into.
    """
    x = named["self"]
    return torch.where(x > 0, 1.0, (named["lower"] + named["upper"]) / 2).to(x.dtype)


def _fill(func: Any, drawn: Tensor, value: Any) -> Tensor:
    """Replace the drawn numbers by ``value``."""
    if isinstance(value, Tensor):
        return drawn.copy_(value)
    if drawn.numel() == 1 and not func._schema.is_mutable:
        # Models may branch on a single number, and a fake tensor created this way knows its value.
        return torch.tensor(value, dtype=drawn.dtype, device=drawn.device).reshape(drawn.shape)
    return drawn.fill_(value)


def _arange(count: int, named: Named) -> Tensor:
    tensor = named.get("self")
    device = tensor.device if isinstance(tensor, Tensor) else named.get("device")
    return torch.arange(count, device=device)


def _order(named: Named, *, reverse: bool) -> Tensor:
    order = _arange(named["n"], named)
    return order.flip(0) if reverse else order


_VALUES: dict[str, Callable[[Named], Any]] = {
    "binomial": lambda named: named["count"] * named["prob"],
    "cauchy": lambda named: named["median"],
    "exponential": lambda named: 1.0 / named["lambd"],
    "geometric": lambda named: 1.0,
    "log_normal": lambda named: math.exp(named["mean"]),
    "multinomial": lambda named: _arange(named["num_samples"], named) % named["self"].shape[-1],
    "normal": lambda named: named["mean"] + named["std"],
    "poisson": lambda named: named["self"],
    "randint": lambda named: named.get("low", 0),
    "randint_like": lambda named: named.get("low", 0),
    "randn": lambda named: 1.0,
    "randn_like": lambda named: 1.0,
    "random": lambda named: named.get("from") or 0,
    "_standard_gamma": lambda named: named["self"],
}
