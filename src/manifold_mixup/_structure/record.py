"""Record one forward pass: which value is computed from which, and where modules end."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup._callers import callers
from manifold_mixup._dry_run.neutral import DEVICE, Neutral, device_of, is_random
from manifold_mixup._inputs import named_inputs
from manifold_mixup._layers import named_layers
from manifold_mixup._masks import is_side
from manifold_mixup._mix import is_continuous
from manifold_mixup._module_hooks import hook_after, hook_before, into_place
from manifold_mixup._own_backward import function_around
from manifold_mixup._storage import unwrapped
from manifold_mixup._structure.flops import Flops
from manifold_mixup._structure.interactions import interaction
from manifold_mixup._structure.operation import Operation
from manifold_mixup._structure.operators import operator, view, views
from manifold_mixup._structure.outside import Outside
from manifold_mixup._structure.recorded import Call, Leaf, Node, Run, Trace
from manifold_mixup._tree import leaves, map_leaves, replace_at, tensors_in


def record(
    recorder: "Recorder",
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    mode: Any,
    neutral: Neutral,
    constants: Iterable[Tensor],
) -> Trace:
    """Record a forward pass with its randomness neutralised.

    A hook clones every layer's output, so that each module boundary is a separate value: exactly
    the value that mixing would replace. Every mask that a layer receives is cloned too.

    Args:
        recorder: the new recorder.
        model: a model that may be run; its new hooks are removed afterwards.
        args: positional arguments, not shared with anything else.
        kwargs: keyword arguments, not shared with anything else.
        mode: the dispatch mode to which model and arguments belong.
        neutral: the mode that neutralises random operators.
        constants: the tensors that the model holds.
    """
    with ExitStack() as stack:
        for name, module in named_layers(model).items():
            enter, leave = recorder.pre_hook(name), recorder.forward_hook(name)
            stack.callback(hook_before(module, enter).remove)
            stack.callback(hook_after(module, leave).remove)
            into_place(module)
            if next(iter(module._forward_hooks.values())) is not leave:
                stack.callback(hook_after(module, recorder.first_hook, prepend=True).remove)
        if type(model).__call__ is not nn.Module.__call__:
            stack.callback(hook_before(model, recorder.note_call).remove)
        stack.enter_context(mode)
        stack.enter_context(neutral)
        recorder.begin(iter(named_inputs(model, args, kwargs)), constants)
        with recorder.outside(), recorder:
            output = model(*args, **kwargs)
        recorder.end(output)
    return recorder.trace


def run_below(quick: Any, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator below the modes that record: at once, if no mode below changes it.

    Args:
        quick: the `quick` of the fake tensors' mode; None without one.
        func: the operator.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    if quick is not None and not is_random(func):
        made = quick(func, args, kwargs)
        if made is not NotImplemented:
            return made
    return func(*args, **kwargs)


_CHECKPOINT = checkpoint.__file__


class Recorder(TorchDispatchMode):
    """Tracks, per tensor storage, the node that last wrote it.

    Views share the storage and therefore the node; an in-place operator creates a new node.

    Args:
        batch: number of examples.
        mode: the dispatch mode to which model and arguments belong.
        mask: name of an input that always counts as a side input.
    """

    supports_higher_order_operators = True

    def __init__(self, batch: int, mode: Any, mask: str | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace(batch)
        self.quick = getattr(mode, "quick", None)
        self.mask = mask
        self.flops = Flops()
        self.open_calls: list[int] = []  # indices of the running calls
        self.run_counts: Counter[str] = Counter()  # by layer: its runs
        self.unread_parameters: dict[int, int] = {}  # those not read yet, with sizes
        # For each node that depends on inputs: whether it depends on side inputs alone.
        self.only_side: dict[int, bool] = {}
        self.node_of_storage: dict[int, int] = {}  # for each storage, by its address, the node
        # They prevent reuse of an address without keeping the memory.
        self.references: dict[int, StorageWeakRef] = {}
        self.without_storage: list[Tensor] = []  # tensors known by their identity
        self.outputs_before_hooks: dict[int, Any] = {}  # of running calls
        self.copied_out: dict[int, None] = {}  # values that were copied out of PyTorch
        self.pointed_to: list[Tensor] = []  # tensors whose address was just read
        self.backward_inputs: tuple[int, ...] = ()  # inputs of a backward pass inside forward

    def note_call(self, *_: Any) -> None:
        """Note that the hooks of the model itself run."""
        self.trace.called = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether PyTorch wraps each call, so that it is not compiled: nothing is here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and record which values it computes from which."""
        if func is DEVICE:
            return device_of(func, args)
        with torch._C.DisableTorchFunction():  # `Outside` would be slow at every access of a shape
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.pointed_to:
            self._link_pointers()
        call = Operation(func, args, kwargs)
        result = run_below(self.quick, func, args, kwargs)
        if call.name == "set_":  # its memory may hold data that was copied out of PyTorch
            self._node(result)
        items = [result] if isinstance(result, Tensor) else tensors_in(result)
        keys = [(tensor, self._key(tensor)) for tensor in items]
        made = [(tensor, key) for tensor, key in keys if key not in self.node_of_storage]
        if made or call.writes:
            self._require_written(call)
        numbers = list(map(self._node, call.reads))
        parents = (*dict.fromkeys(numbers), *self.backward_inputs)
        for parent in parents:
            if parent in self.unread_parameters:
                self.trace.weights += self.unread_parameters.pop(parent)
        flops = self.flops.of(func, args, kwargs, result)
        self.trace.flops += flops
        made += [(tensor, self._key(tensor)) for tensor in call.writes]
        results = self._results(call, parents, made, flops)
        if results and call.signature.arguments is not None:
            self._keep(call, zip(call.reads, numbers, strict=True), results)
        if call.signature.can_interact:
            self._note_interaction(call, result)
        self.trace.functions.append(func)
        self.trace.steps += 1
        return result

    def _results(
        self,
        call: Operation,
        parents: tuple[int, ...],
        made: list[tuple[Tensor, int]],
        flops: int,
    ) -> list[tuple[Tensor, int]]:
        """Create the nodes of an operator's results, of which each is a value of its own."""
        inside = self.open_calls[-1] if self.open_calls else -1
        roles = (call.indices, call.codes, call.biases, call.conditions)
        indices, codes, biases, conditions = map(self._nodes, roles)
        results = []
        for tensor, key in made:
            integer = not is_continuous(tensor) and tensor.dtype != torch.bool
            given = self._kinds(call.reads) if call.signature.moves else set()
            node = Node(
                parents,
                indices,
                codes,
                call.kind(given, integer=integer, new=not call.writes),
                integer,
                inside,
                self.node_of_storage.get(key, -1),
                call.name,
                biases,
                flops=flops,
                conditions=conditions,
            )
            results.append((tensor, self._set_node(tensor, node, key)))
            flops = 0
        return results

    def _keep(
        self,
        call: Operation,
        reads: Iterable[tuple[Tensor, int]],
        made: Iterable[tuple[Tensor, int]],
    ) -> None:
        """Keep which dimensions an operator read and made, if they are usual."""
        read, written = views(reads), views(made)
        if read is not None and written is not None:
            self.trace.operators.append(operator(call, read, written))

    def _note_interaction(self, call: Operation, result: Any) -> None:
        """Note whether rows of the batch may have interacted."""
        first = next(tensors_in(result), None)
        found = (
            None if first is None else interaction(call.name, call.named or {}, first, self._ranged)
        )
        if found is not None and first is not None:
            self.trace.interactions.append(replace(found, node=self._node(first)))

    def _ranged(self, index: Tensor) -> bool:
        """Return whether an index is a range of row numbers."""
        ranged = self.trace.nodes[self._node(index)].kind == "range"
        if ranged:
            self.trace.ranged.add(self.trace.steps)
        return ranged

    def _kinds(self, tensors: list[Tensor]) -> set[str]:
        return {self.trace.nodes[self._node(tensor)].kind for tensor in tensors}

    def _require_written(self, call: Operation) -> None:
        """Assign an origin to tensors that are read although no operator has written them."""
        if call.signature.moves:
            return  # a copy of blank memory is blank too
        for tensor in call.reads:
            blank = self.trace.nodes[self._node(tensor)].kind == "blank" and tensor.numel()
            if blank and all(tensor is not written for written in call.writes):
                origin = tuple(self.copied_out) or tuple(leaf.node for leaf in self.trace.inputs)
                self._set_node(tensor, Node(origin, kind="unseen"))

    def _link_pointers(self) -> None:
        """Make tensors whose addresses were read together depend on each other."""
        tensors, self.pointed_to = self.pointed_to, []
        if len(tensors) > 1:
            parents = self._nodes(tensors)
            for tensor in tensors:
                self._set_node(tensor, Node(parents, kind="unseen"))

    # Called by `Outside`

    def note_copied_out(self, tensor: Tensor) -> None:
        """Note that the values of a tensor were copied out of PyTorch."""
        with torch._C.DisableTorchFunction():
            self.copied_out[self._node(tensor)] = None

    def note_pointer(self, tensor: Tensor) -> None:
        """Note that the address of a tensor was read, perhaps for a kernel."""
        with torch._C.DisableTorchFunction():
            if type(tensor).__name__ == "FakeTensor":
                # A kernel must not receive a null pointer; `trace` then records on copies.
                raise RuntimeError("fake tensors have no memory to point to")
            self.pointed_to.append(tensor)

    def note_derivative(self, gradient: Tensor, by: Tensor) -> None:
        """Note that one tensor is the derivative with respect to another."""
        with torch._C.DisableTorchFunction():
            parents = tuple(dict.fromkeys((self._node(gradient), self._node(by))))
            self._set_node(gradient, Node(parents, kind="gradient"))

    def note_backward(self, *, running: bool) -> None:
        """Treat the results of a backward pass as derivatives with respect to all inputs."""
        self.backward_inputs = tuple(leaf.node for leaf in self.trace.inputs) if running else ()

    # Begin and end

    def outside(self) -> Any:
        """Return a context in which all that bypasses operators is noticed."""
        return Outside(self)

    def begin(self, inputs: Iterator[tuple[str, Tensor]], constants: Iterable[Tensor]) -> None:
        """Create nodes without parents for the inputs and for the model's own tensors."""
        for tensor in constants:
            with torch._C.DisableTorchFunction():  # as in `_leaf`
                self._node(tensor)
        for name, tensor in inputs:
            with torch._C.DisableTorchFunction():
                number = self._set_node(tensor, Node())
            self.only_side[number] = is_side(name, self.mask, floating=is_continuous(tensor))
            self.trace.inputs.append(self._leaf(name, tensor))
        self.trace.first_computed = len(self.trace.nodes)

    def pre_hook(self, layer: str) -> Callable[..., Any]:
        """Return the hook that begins a layer."""

        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            tensors = dict(leaves((args, kwargs)))
            given = [self._leaf(path, tensor) for path, tensor in tensors.items()]
            call = Call(
                layer, self.trace.steps, tuple(self.open_calls), [], given, len(self.trace.nodes)
            )
            self.open_calls.append(len(self.trace.calls))
            self.trace.calls.append(call)
            own = {path: tensors[path].clone() for path in self._masks(call)}
            call.masks = [self._leaf(path, mask) for path, mask in own.items()]
            return replace_at(own, (args, kwargs)) if own else None

        return hook

    def _masks(self, call: Call) -> list[str]:
        """List the paths of a call's arguments that depend on side inputs alone."""
        return [leaf.path for leaf in call.given if self.only_side.get(leaf.node)]

    def forward_hook(self, layer: str) -> Callable[..., Any]:
        """Return the hook that ends a layer."""

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            place = self.open_calls.pop()
            in_front = self.outputs_before_hooks.pop(place, None) is output and output is not None
            if not in_front:
                output = map_leaves(_cloned, output)
            ends = [self._leaf(path, tensor) for path, tensor in leaves(output)]
            call = self.trace.calls[place]
            call.last, call.returned = len(self.trace.nodes), ends
            spent = self.trace.flops, self.trace.steps, self.trace.weights
            number = self.run_counts[layer]
            self.run_counts[layer] += 1
            again = self._in_checkpoint()
            inside = function_around()
            self.trace.runs.append(Run(layer, number, ends, *spent, again, in_front, inside))
            return output

        return hook

    def first_hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Keep a layer's output before hooks of others see it, in case they only read it."""
        output = map_leaves(_cloned, output)
        self.outputs_before_hooks[self.open_calls[-1]] = output
        return output

    def end(self, output: Any) -> None:
        """Record the outputs of the model."""
        self.trace.outputs = [self._leaf(path, tensor) for path, tensor in leaves(output)]

    def _in_checkpoint(self) -> bool:
        """Return whether an activation checkpoint is among the callers."""
        return any(frame.f_code.co_filename == _CHECKPOINT for frame in callers())

    def _leaf(self, path: str, tensor: Tensor) -> Leaf:
        with torch._C.DisableTorchFunction():  # a subclass of the user's may refuse its methods
            boolean, node = tensor.dtype == torch.bool, self._node(tensor)
            leaf = Leaf(path, tuple(tensor.shape), is_continuous(tensor), node, boolean)
            leaf.view = view(tensor, node)
        return leaf

    def _nodes(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(map(self._node, tensors))) if tensors else ()

    def _node(self, tensor: Tensor) -> int:
        """Return the node of a tensor's current value; parameters get theirs here."""
        key = self._key(tensor)
        found = self.node_of_storage.get(key)
        if found is not None:
            return found
        if self.copied_out and _holds_several(tensor):  # it may have come back from NumPy or a list
            return self._set_node(tensor, Node(tuple(self.copied_out), kind="unseen"), key)
        number = self._set_node(tensor, Node(learned=isinstance(tensor, nn.Parameter)), key)
        if isinstance(tensor, nn.Parameter) and not is_lazy(tensor):
            self.unread_parameters[number] = tensor.numel()
        return number

    def _set_node(self, tensor: Tensor, node: Node, key: int | None = None) -> int:
        number = len(self.trace.nodes)
        key = self._key(tensor) if key is None else key
        self.trace.nodes.append(node)
        if key >= 0 and key not in self.references:
            self.references[key] = StorageWeakRef(unwrapped(tensor).untyped_storage())
        self.node_of_storage[key] = number
        known = [self.only_side[parent] for parent in node.parents if parent in self.only_side]
        if known:
            chosen = all(
                parent in node.indices for parent in node.parents if parent in self.only_side
            )
            self.only_side[number] = all(known) and not chosen  # rows that ids chose are data
        return number

    def _key(self, tensor: Tensor) -> int:
        """Return the address of a tensor's storage; without one, a number below 0."""
        tensor = unwrapped(tensor)
        try:
            return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]
        except (NotImplementedError, RuntimeError, ValueError):
            self.without_storage.append(tensor)
            return -id(tensor)


def _cloned(path: str, tensor: Tensor) -> Tensor:
    del path
    return tensor.clone()


def _holds_several(tensor: Tensor) -> bool:
    """Return whether a tensor's storage has room for more than one number."""
    try:
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage().nbytes() > tensor.element_size()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, nested, lazy: none
        return tensor.numel() > 1
