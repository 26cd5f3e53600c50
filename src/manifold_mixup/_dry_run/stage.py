"""Set up a model for dry runs: it runs its own code on stand-ins, and is then restored."""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup._dry_run.errors import SCRIPTED, NotTraceable, Sharded
from manifold_mixup._dry_run.side_effects import without_collections, without_side_effects
from manifold_mixup._dry_run.snapshot import Snapshot, snapshot_of
from manifold_mixup._dry_run.stand_ins import plain
from manifold_mixup._inputs import map_inputs
from manifold_mixup._layers import unwrap
from manifold_mixup._module_hooks import Hook, HookPlaceholder
from manifold_mixup._storage import number_of_storage, storage_of

# Given an operator and its arguments, returns its result, or NotImplemented for one that is to run.
Compute = Callable[[Any, tuple[Any, ...], Any], Any]


@contextmanager
def staged_with(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple["Stage", tuple[Any, ...], dict[str, Any]]]:
    """Yield the stage of a model, apart from training, and its arguments as plain tensors.

    Raises:
        NotTraceable: the model is of a kind that cannot run on stand-ins.
    """
    with without_side_effects(model), staged(model) as stage:
        yield stage, *map_inputs(lambda _, tensor: plain(tensor), model, args, kwargs)


@contextmanager
def staged(model: nn.Module) -> Iterator["Stage"]:
    """Yield the stage of a model; on exit, everything is restored.

    Raises:
        NotTraceable: the model is of a kind that cannot run on stand-ins.
    """
    core = unwrap(model)
    require_runnable(core)
    with without_collections():
        snapshot = snapshot_of(core)
        stage = Stage(core, snapshot)
    try:
        yield stage
    finally:
        snapshot.restore()
        stage.clear()


class Stage:
    """An unwrapped model on stand-ins: call `replace_tensors` first, and `reset` before each run.

    Closures, compiled methods and everything else that refers to the model's own modules and
    tensors see the stand-ins.

    Attributes:
        model: the user's own model, in train mode, eager, with all forward hooks except ours.
    """

    def __init__(self, model: nn.Module, snapshot: Snapshot) -> None:
        self.model = model
        self.snapshot = snapshot
        self.training = model.training
        self.modules = snapshot.modules()
        self.tensors = snapshot.tensors()
        self.parameters = {id(parameter) for parameter in model.parameters()}
        named = [*model.named_buffers(), *model.named_parameters()]
        names = {id(tensor): name for name, tensor in named}
        self.originals = {storage_of(tensor): names.get(id(tensor), "") for tensor in self.tensors}
        self.make: Callable[[Tensor], Tensor] = torch.clone
        self.stand_ins: dict[int, Tensor] = {}
        self.fresh = False  # whether nothing has run since `replace_tensors`
        self.ran = False  # whether anything may have run since the snapshot

    def replace_tensors(self, make: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor by the result of ``make``, and set the model up to run."""
        self.make = make
        self.stand_ins = {id(tensor): make(tensor) for tensor in self.tensors}
        self._set_up(unchanged=not self.ran)
        self.fresh = self.ran = True

    def reset(self) -> None:
        """Undo all writes since `replace_tensors`, except to parameters, before each run."""
        if self.fresh:
            self.fresh = False
            return
        for tensor in self.tensors:
            # The run has materialised the parameters of lazy modules.
            if id(tensor) not in self.parameters or is_lazy(tensor):
                self.stand_ins[id(tensor)] = self.make(tensor)
        self._set_up()

    def _set_up(self, *, unchanged: bool = False) -> None:
        self.snapshot.restore(self.stand_ins, unchanged=unchanged)
        for module in self.modules:
            _make_eager(module)
            _remove_hooks(module)
        # A model in train mode keeps its frozen parts (such as BatchNorm in eval mode).
        if not self.training:
            self.model.train()

    def clear(self) -> None:
        """Release the stand-ins."""
        self.stand_ins.clear()
        self.make = torch.clone  # the old function may refer to this stage

    def isolated(self, compute: Compute | None = None) -> "Isolated":
        """Return a mode in which no operator may use the user's own tensors; see `Isolated`."""
        return Isolated(self.originals, compute)


class Isolated(TorchDispatchMode):
    """Raises as soon as an operator uses one of the user's own tensors.

    Args:
        originals: the names of these tensors, by storage.
        compute: computes some operators in another way; None runs all.
    """

    supports_higher_order_operators = True

    def __init__(
        self, originals: dict[StorageWeakRef | None, str], compute: Compute | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.originals, self.compute = originals, compute  # which keep their numbers unique
        self.numbers = {ref.cdata: name for ref, name in originals.items() if ref is not None}
        self.violation: NotTraceable | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether PyTorch wraps each call, so that it is not compiled: nothing is here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, unless it uses one of the user's own tensors."""
        for tensor in _tensors_given(args, kwargs):
            name = self.numbers.get(number_of_storage(tensor))
            if name is not None:
                self.violation = NotTraceable(_not_isolated(name))
                raise self.violation
        made = NotImplemented if self.compute is None else self.compute(func, args, kwargs)
        return func(*args, **(kwargs or {})) if made is NotImplemented else made

    def require(self) -> None:
        """Raise if an operator was refused; the model's own code may have caught the error."""
        if self.violation is not None:
            raise self.violation


def _tensors_given(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Iterator[Tensor]:
    """Yield the tensors that an operator is given: arguments, or in lists; it takes no others."""
    for value in (*args, *(kwargs or {}).values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (part for part in value if isinstance(part, Tensor))


def _not_isolated(name: str) -> str:
    which = f"the model's own tensor {name!r}" if name else "a tensor of the model's own"
    return (
        f"its forward pass reaches {which} in a way that does not allow a stand-in. Let it read "
        f"tensors from the modules, lists, dicts and objects that hold them"
    )


def require_runnable(model: nn.Module) -> None:
    """Raise NotTraceable if a model is of a kind that cannot be run on stand-ins."""
    model = unwrap(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise NotTraceable(SCRIPTED)
    kinds = {type(part).__name__ for part in (*model.modules(), *model.parameters())}
    if kinds & {"DTensor", "FullyShardedDataParallel"}:
        raise Sharded("its parameters are sharded, and this process holds only a part of each")


def _make_eager(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        return
    module._compiled_call_impl = None
    for name, child in module._modules.items():
        if child is not None and (inner := unwrap(child)) is not child:
            module._modules[name] = inner
    if isinstance(module, nn.SyncBatchNorm):
        # Run without communication with other processes.
        module.forward = types.MethodType(nn.BatchNorm2d.forward, module)  # type: ignore[method-assign]


def _remove_hooks(module: nn.Module) -> None:
    """Remove our own hooks, and backward hooks, which do not affect the forward pass."""
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        hooks = getattr(module, kind)
        for key, hook in list(hooks.items()):
            if isinstance(hook, Hook) and hook.in_dry_run:
                hooks[key] = HookPlaceholder()
            elif isinstance(hook, Hook):
                del hooks[key]
    module._backward_hooks.clear()
    module._backward_pre_hooks.clear()
