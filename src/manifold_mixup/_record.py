"""One forward pass, recorded: which value was made from which, and where modules end."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup._inputs import named_inputs
from manifold_mixup._layers import named_layers
from manifold_mixup._masks import is_side
from manifold_mixup._mix import is_continuous
from manifold_mixup._neutral import Neutral, bind, operator_name
from manifold_mixup._places import hook_after, hook_before, into_place
from manifold_mixup._tree import leaves, map_leaves, put


@dataclass
class Node:
    """A value.

    Attributes:
        parents: the nodes it was computed from.
        indices: those of them that only chose rows of a table (token ids in an embedding).
    """

    parents: tuple[int, ...] = ()
    indices: tuple[int, ...] = ()


@dataclass
class Leaf:
    """A tensor in a nested value, as it was when it was seen: its node says which value it held."""

    path: str
    shape: tuple[int, ...]
    floating: bool
    node: int


@dataclass
class Run:
    """One run of one layer.

    Attributes:
        layer: its name.
        leaves: its output.
        flops: floating point operations spent when it ended.
        steps: operators run when it ended.
        checkpointed: whether an activation checkpoint called it.
    """

    layer: str
    leaves: list[Leaf]
    flops: int
    steps: int
    checkpointed: bool


@dataclass
class Call:
    """One call of one layer, and what it was given that was made from side inputs alone.

    Attributes:
        layer: its name.
        steps: operators run when it began.
        around: places of the calls that were running then.
        masks: those arguments; a path begins with 0 for positional and 1 for keyword arguments.
        shapes: of its floating outputs.
    """

    layer: str
    steps: int
    around: tuple[int, ...]
    masks: list[Leaf]
    shapes: list[tuple[int, ...]] = field(default_factory=list)


@dataclass
class Trace:
    """A recorded forward pass; its nodes are numbered in the order in which they were made."""

    batch: int
    nodes: list[Node] = field(default_factory=list)
    inputs: list[Leaf] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    outputs: list[Leaf] = field(default_factory=list)
    flops: int = 0
    steps: int = 0


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: int,
    mode: Any,
    neutral: Neutral,
    mask: str | None = None,
) -> Trace:
    """Record a forward pass, with the chance taken out.

    Every layer's output is cloned by a hook, so that each module boundary is a value of its own:
    exactly what mixing there would replace. So is every mask that a layer is given.

    Args:
        model: a model that may be run; the hooks put on it are taken off afterwards.
        args: positional arguments, which no one else uses.
        kwargs: keyword arguments, likewise.
        batch: number of examples in them.
        mode: the dispatch mode in which model and arguments live.
        neutral: what random operators give.
        mask: name of an input that is a side input, whatever it looks like.
    """
    recorder = _Recorder(Trace(batch), mask)
    with ExitStack() as stack:
        for name, module in named_layers(model).items():
            enter, leave = recorder.entry(name), recorder.boundary(name)
            stack.callback(hook_before(module, enter).remove)
            stack.callback(hook_after(module, leave).remove)
            into_place(module)
        stack.enter_context(mode)
        stack.enter_context(neutral)
        recorder.begin(named_inputs(model, args, kwargs))
        with recorder:
            output = model(*args, **kwargs)
        recorder.end(output)
    return recorder.trace


class _Recorder(TorchDispatchMode):
    """Notes, per tensor storage, the node that last wrote it.

    Views share their storage and so the node; an in-place operator makes a new one.
    """

    def __init__(self, trace: Trace, mask: str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.mask = mask
        self.open: list[int] = []  # places of the running calls
        # Nodes made from inputs: whether from side inputs alone.
        self.side: dict[int, bool] = {}
        # Weak references keep an address from being used again, but none of the memory behind it.
        self.held: dict[Any, int] = {}
        self.kept: list[Tensor] = []  # tensors without a storage, known by their identity

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what it made from what."""
        kwargs = dict(kwargs or {})
        call = _Call(func, args, kwargs)
        node = Node(self._nodes(call.reads), self._nodes(call.indices))
        result = func(*args, **kwargs)
        made = [tensor for tensor in _tensors(result) if self._key(tensor) not in self.held]
        for tensor in (*made, *call.writes):  # several outputs of one operator may be used apart
            self._hold(tensor, node)
        self.trace.steps += 1
        self.trace.flops += _flops(func, args, kwargs, result)
        return result

    def begin(self, inputs: Iterator[tuple[str, Tensor]]) -> None:
        """Make the inputs values without a past."""
        for name, tensor in inputs:
            self.side[self._hold(tensor, Node())] = is_side(
                name, self.mask, floating=is_continuous(tensor)
            )
            self.trace.inputs.append(self._leaf(name, tensor))

    def entry(self, layer: str) -> Callable[..., Any]:
        """Make the hook that begins a layer."""

        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            given = leaves((args, kwargs))
            own = {path: mask.clone() for path, mask in given if self.side.get(self._node(mask))}
            masks = [self._leaf(path, mask) for path, mask in own.items()]
            around, steps = tuple(self.open), self.trace.steps
            self.open.append(len(self.trace.calls))
            self.trace.calls.append(Call(layer, steps, around, masks))
            return put(own, (args, kwargs))

        return hook

    def boundary(self, layer: str) -> Callable[..., Any]:
        """Make the hook that ends a layer."""

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            output = map_leaves(lambda _, tensor: tensor.clone(), output)
            ends = [self._leaf(path, tensor) for path, tensor in leaves(output)]
            call = self.trace.calls[self.open.pop()]
            call.shapes = [leaf.shape for leaf in ends if leaf.floating]
            spent = self.trace.flops, self.trace.steps
            self.trace.runs.append(Run(layer, ends, *spent, _in_checkpoint()))
            return output

        return hook

    def end(self, output: Any) -> None:
        """Note what the model returned."""
        self.trace.outputs = [self._leaf(path, tensor) for path, tensor in leaves(output)]

    def _leaf(self, path: str, tensor: Tensor) -> Leaf:
        return Leaf(path, tuple(tensor.shape), is_continuous(tensor), self._node(tensor))

    def _nodes(self, tensors: list[Tensor]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(map(self._node, tensors)))

    def _node(self, tensor: Tensor) -> int:
        """Return the node of the value that a tensor holds now; parameters get theirs here."""
        found = self.held.get(self._key(tensor))
        return self._hold(tensor, Node()) if found is None else found

    def _hold(self, tensor: Tensor, node: Node) -> int:
        number = len(self.trace.nodes)
        self.trace.nodes.append(node)
        self.held[self._key(tensor)] = number
        known = [self.side[parent] for parent in node.parents if parent in self.side]
        if known:
            chosen = all(parent in node.indices for parent in node.parents if parent in self.side)
            self.side[number] = all(known) and not chosen  # rows that ids chose are data
        return number

    def _key(self, tensor: Tensor) -> Any:
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # inside vmap, say
            tensor = torch._C._functorch.get_unwrapped(tensor)
        try:
            return StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):  # sparse, nested and the like have none
            self.kept.append(tensor)
            return id(tensor)


# Operators whose result does not depend on the values of what they are given.
_SHAPE_ONLY = ("_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
# Operators that leave nothing of what was in the tensor they write into.
_OVERWRITE = {"copy_", "fill_", "zero_", "uniform_", "normal_", "random_", "bernoulli_"}
# Operators that choose rows of a table, and the arguments that choose.
_LOOKUPS = {
    "embedding": "indices",
    "_embedding_bag": "indices",
    "_embedding_bag_forward_only": "indices",
    "index": "indices",
    "index_select": "index",
    "gather": "index",
    "take": "index",
}
# Running statistics are no path: while a model trains, its output depends on the batch's own.
_STATISTICS = {"running_mean", "running_var"}


class _Call:
    """What an operator call reads and writes.

    Attributes:
        reads: tensors whose values the result depends on.
        indices: those of them that choose rows of a table.
        writes: tensors it writes into.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.reads: list[Tensor] = []
        self.indices: list[Tensor] = []
        self.writes: list[Tensor] = []
        if not hasattr(func, "_schema"):  # higher-order operators
            self.reads = list(_tensors((args, kwargs)))
            return
        name = operator_name(func)
        named = bind(func, args, kwargs)
        self._sort(func, named, overwrites=name in _OVERWRITE)
        if name.endswith(_SHAPE_ONLY):
            self.reads = []
        if name in _LOOKUPS:
            self.indices = list(_tensors(named[_LOOKUPS[name]]))

    def _sort(self, func: Any, named: dict[str, Any], *, overwrites: bool) -> None:
        for argument in func._schema.arguments:
            if argument.name in _STATISTICS:
                continue
            tensors = list(_tensors(named[argument.name]))
            written = argument.alias_info is not None and argument.alias_info.is_write
            gone = written and (overwrites or argument.is_out)
            self.reads += [tensor for tensor in tensors if not (gone and _fills_storage(tensor))]
            self.writes += tensors if written else []


def _fills_storage(tensor: Tensor) -> bool:
    try:
        return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return False


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in the arguments or results of an operator."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Count the floating point operations of a call by torch's own formulas; 0 without one."""
    from torch.utils.flop_counter import flop_registry, sdpa_flop_count

    formula = flop_registry.get(getattr(func, "_overloadpacket", None))
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=result))
    name = operator_name(func)
    if name.startswith("_scaled_dot_product"):  # variants of one device or another
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))
    if "rnn" in name:  # fused recurrent layers use each weight once per step and example
        weights = sum(tensor.numel() for tensor in _tensors(args[1:]) if tensor.ndim == 2)
        return 2 * int(args[0].shape[0] * args[0].shape[1]) * weights
    return 0


def _in_checkpoint() -> bool:
    """Say whether an activation checkpoint is among the callers."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
    return False
