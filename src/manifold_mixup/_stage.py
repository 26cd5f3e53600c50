"""A model set up to be looked at: it runs itself, but on stand-ins, and is then what it was."""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup._aside import NotTraceable, Sharded
from manifold_mixup._hooks import Hook, LayerHook
from manifold_mixup._layers import unwrap
from manifold_mixup._places import Place
from manifold_mixup._snapshot import Snapshot
from manifold_mixup._tree import leaves


@contextmanager
def staged(model: nn.Module) -> Iterator["Stage"]:
    """Give the stage for a model; when it is left, everything is what it was.

    Raises:
        NotTraceable: the model is of a kind that cannot be run like this.
    """
    core = unwrap(model)
    refuse(core)
    snapshot = Snapshot(core)
    stage = Stage(core, snapshot)
    try:
        yield stage
    finally:
        snapshot.put()
        stage.clear()


class Stage:
    """A model, without what wraps it, to be run on stand-ins: `cast` first, then `reset`.

    Closures, methods compiled before and whatever else leads to the model's own modules and tensors
    finds the stand-ins there.

    Attributes:
        model: the user's own model. It trains, in eager mode, with all forward hooks but ours.
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
        self.originals = {_storage(tensor): names.get(id(tensor), "") for tensor in self.tensors}
        self.make: Callable[[Tensor], Tensor] = torch.clone
        self.stand_ins: dict[int, Tensor] = {}
        self.versions: dict[int, int] = {}  # of the stand-ins, before a run
        self.fresh = False  # nothing has run since `cast`

    def cast(self, make: Callable[[Tensor], Tensor]) -> None:
        """Put what ``make`` makes of each tensor in its place, and set the model up to run."""
        self.make = make
        self.stand_ins = {id(tensor): make(tensor) for tensor in self.tensors}
        self._set_up()
        self.fresh = True

    def reset(self) -> None:
        """Undo what runs have written since `cast`, but in parameters; call it before each."""
        if self.fresh:
            self.fresh = False
            return
        for tensor in self.tensors:
            # The parameters of lazy modules were given their shapes by the run.
            if id(tensor) not in self.parameters or is_lazy(tensor):
                self.stand_ins[id(tensor)] = self.make(tensor)
        self._set_up()

    def _set_up(self) -> None:
        self.versions = {number: made._version for number, made in self.stand_ins.items()}
        self.snapshot.put(self.stand_ins)
        for module in self.modules:
            _make_eager(module)
            _take_hooks_off(module)
        # A model in train mode keeps what its owner froze (BatchNorm in eval mode, say).
        if not self.training:
            self.model.train()

    def clear(self) -> None:
        """Let go of the stand-ins."""
        self.stand_ins.clear()
        self.make = torch.clone  # the other one may lead back here

    def rewritten(self) -> set[int]:
        """Return the ids of the tensors, but parameters, that the latest run wrote or replaced."""
        held = {id(tensor) for tensor in Snapshot(self.model).tensors()}
        return {
            number
            for number, stand_in in self.stand_ins.items()
            if number not in self.parameters
            and (id(stand_in) not in held or stand_in._version != self.versions[number])
        }

    def isolated(self) -> "Isolated":
        """Return a mode in which no operator is given a tensor of the user's."""
        return Isolated(self.originals)


class Isolated(TorchDispatchMode):
    """Raises as soon as an operator is given a tensor that it must not be given.

    Args:
        originals: the names of those tensors, by their storage.
    """

    def __init__(self, originals: dict[int | None, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.originals = originals
        self.met: NotTraceable | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, unless it is given a tensor of the user's."""
        for _, tensor in leaves((args, kwargs or {})):
            storage = _storage(tensor)
            if storage is not None and storage in self.originals:
                self.met = NotTraceable(_not_isolated(self.originals[storage]))
                raise self.met
        return func(*args, **(kwargs or {}))

    def require(self) -> None:
        """Raise if an operator was refused: the model's own code may have caught that."""
        if self.met is not None:
            raise self.met


def _storage(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, nested, lazy ones have none
        return None


def _not_isolated(name: str) -> str:
    which = f"the model's own tensor {name!r}" if name else "a tensor of the model's own"
    return (
        f"its forward pass gets at {which} by a way on which nothing else can be put in its place. "
        f"Let it read tensors from the modules, lists, dicts and objects that hold them"
    )


def refuse(model: nn.Module) -> None:
    """Raise NotTraceable if a model is of a kind that cannot be run on stand-ins."""
    model = unwrap(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise NotTraceable(SCRIPTED)
    kinds = {type(part).__name__ for part in (*model.modules(), *model.parameters())}
    if kinds & {"DTensor", "FullyShardedDataParallel"}:
        raise Sharded("its parameters are sharded, and here is but a part of each")


SCRIPTED = (
    "it is scripted or traced as a whole, and its layers run in C++, where no hook can get at "
    "them. Attach to the model that it was made of"
)


def _make_eager(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        return
    module._compiled_call_impl = None
    for name, child in module._modules.items():
        if child is not None and (inner := unwrap(child)) is not child:
            module._modules[name] = inner
    if isinstance(module, nn.SyncBatchNorm):
        # Alone in its process, and talking to nobody.
        module.forward = types.MethodType(nn.BatchNorm2d.forward, module)  # type: ignore[method-assign]


def _take_hooks_off(module: nn.Module) -> None:
    """Take off our own hooks, and those on gradients: these say nothing of what is made of what."""
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        hooks = getattr(module, kind)
        for key, hook in list(hooks.items()):
            if isinstance(hook, LayerHook) and hook.looking:
                hooks[key] = Place()
            elif isinstance(hook, Hook):
                del hooks[key]
    module._backward_hooks.clear()
    module._backward_pre_hooks.clear()
