"""The hooks on an attached model, which read what to mix from the active plan.

They are registered once and never change, so that compiled code around them stays valid. Only the
attributes of the active plan change from pass to pass, and the compiler guards these.
"""

import functools
import itertools
import weakref
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manifold_mixup import _autograd, _masks, _mix
from manifold_mixup._attach import compiled, mask_pair
from manifold_mixup._attach.forward_pass import ForwardPass
from manifold_mixup._attach.packed import require_equal_lengths
from manifold_mixup._attach.passes import Passes
from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._blend import SimilarityKernel
from manifold_mixup._box import Box, Ranges
from manifold_mixup._layers import ALL_RUNS, module_name, named_layers, split_run
from manifold_mixup._module_hooks import COMPILE_FIRST, WRAP_BLOCKS, Hook, hook_after, hook_before
from manifold_mixup._noise import DrawnNoise
from manifold_mixup._plan import MixPlan, Weight
from manifold_mixup._structure.row import Reader
from manifold_mixup._transport import Aligned
from manifold_mixup._tree import leaves, map_leaves, replace_at
from manifold_mixup._weigh.completion import (
    Completion,
    PlanFields,
    completion_for,
    needs_completion,
)
from manifold_mixup._weigh.place import Place
from manifold_mixup._weigh.state import mix_state

if TYPE_CHECKING:
    from manifold_mixup._attach.shared_runs import RunCounter

_NOTHING = torch.empty(0)
_SERIAL = itertools.count(1)


class ActivePlan:
    """The plan of the running pass, in attributes that compiled code reads and guards."""

    layer: str | None
    lam: Tensor
    perm: Tensor
    weight: Weight | None
    label: Tensor | None
    noise: DrawnNoise | None
    valid: Tensor | None
    repeats: bool
    box: Ranges | None = None  # compiled code does not know it
    is_completed: bool  # whether compiled code completed the plan

    def __init__(self) -> None:
        self.compiled_mixes = 0  # how often compiled code mixed in this pass
        self.mixed_eagerly = False  # whether code that is not compiled mixed in this pass
        self.compiled_runs = 0  # how often it ran the module of the layer, if that is shared
        self.newly_compiled = False  # whether code was traced that reads the plan after its layer
        self.set(None)

    def set(self, running: ForwardPass | None, *, drawn: bool = False) -> None:
        """Activate the plan of a pass; None mixes nothing.

        Args:
            running: the pass.
            drawn: whether to take the plan as it was before its layer ran, which compiled code is
                about to complete once more.
        """
        plan = None if running is None else running.drawn if drawn else running.plan
        self.is_completed = False
        self.layer = None if plan is None else plan.layer
        self.lam = _NOTHING if plan is None else plan.lam
        self.perm = _NOTHING if plan is None else plan.perm
        self.weight = None if plan is None else plan.weight
        self.label = None if plan is None else plan.label
        self.noise = None if plan is None else plan.noise
        self.repeats = plan is not None and plan.repeats
        self.valid = None if plan is None or running is None else running.valid

    @property
    def mixed(self) -> bool:
        """Whether the layer was mixed in this pass, compiled or not."""
        return self.mixed_eagerly or self.compiled_mixes > 0

    def start(self) -> None:
        """Begin to count for a pass."""
        self.compiled_mixes = self.compiled_runs = 0
        self.mixed_eagerly = False

    def complete(self, completion: Completion) -> None:
        """Complete the active plan by the state of its layer."""
        self.lam, self.weight, self.label = completion.lam, completion.weight, completion.label
        self.is_completed = True

    def completed(self) -> Completion | None:
        """Return how compiled code completed the plan, if it did."""
        if not self.is_completed:
            return None
        assert not isinstance(self.weight, Box | SimilarityKernel | Aligned)
        return Completion(self.lam, self.weight, self.label)


class ActivePlans:
    """Active plans as attributes, by a key, for hooks on PyTorch's own modules.

    The compiler takes what it reaches through such a module for static, and would make a graph for
    each batch size. From here, it takes the one attribute.
    """

    def let_in(self, owner: object, hooks: Iterable["LayerHook"], modules: Any) -> None:
        """Give those hooks that need it a key, for as long as their owner is there."""
        built_in = [hook for hook in hooks if _is_pytorchs(modules[module_name(hook.layer)])]
        for hook in built_in:
            if not hook.key:
                hook.key = f"of_{next(_SERIAL)}"
                setattr(self, hook.key, hook.active)
                weakref.finalize(owner, vars(self).pop, hook.key, None)


PLANS = ActivePlans()


def _is_pytorchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.")


_IN_BRANCH = (
    "layer {!r} cannot be mixed: it runs in a branch of torch.cond, and nothing tells whether that "
    "branch is taken. Mix a layer before or after torch.cond."
)


class EagerHook(Hook):
    """A hook that must run outside of compiled code."""

    reason = COMPILE_FIRST

    def __init__(self, owner: object, run: Callable[..., Any]) -> None:
        self.owner = owner
        self.directly = run
        self.unseen = _autograd.unseen(run)
        self.run = torch.compiler.disable(self.unseen, reason=self.reason)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run, outside of compiled code."""
        if not torch.compiler.is_dynamo_compiling() and _autograd.compiler() is None:
            return (self.unseen if _autograd.count_of_modes() else self.directly)(*args, **kwargs)
        return self.run(*args, **kwargs)


class BlockHook(EagerHook):
    """An eager hook on a block that is compiled separately."""

    reason = WRAP_BLOCKS

    # This method is duplicated because `skip_compiling` hides it from the compiler. The hooks on
    # the whole model stay visible, so that fullgraph=True fails there with our reason.
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run, outside of compiled code."""
        return self.run(*args, **kwargs)


class LayerHook(Hook):
    """Mixes the output of one eligible layer when the active plan names it.

    Args:
        owner: the object that the hook belongs to.
        layer: name of the layer.
        active: the active plan.
        passes: the forward passes.
        counter: counts the runs of the layer's module, if the layer is one of several.
    """

    def __init__(
        self,
        owner: object,
        layer: str,
        active: ActivePlan,
        passes: Passes,
        counter: "RunCounter | None" = None,
    ) -> None:
        self.owner = owner
        self.layer = layer
        self.active = active
        self.key = ""  # by which compiled code finds the active plan; empty if it is reached here
        self.passes = passes
        self.counter = counter
        self.run = None if counter is None else int(split_run(layer)[1])
        self.all_runs = split_run(layer)[1] == ALL_RUNS  # whether all of its module's are mixed
        self.inspected_runs: int | None = None  # how often its module ran in the inspection
        self.traced_runs = 0  # how often it runs in the compiled code that was traced last
        self._trace: Any = None
        self.unmixed: Collection[str] = ()  # leaves of the output that nothing depends on
        self.batch_dims: Mapping[str, BatchDim] = {}  # where tensors hold the batch, if not first
        self.default_batch_dim = BatchDim()  # where the other tensors hold it
        self.places: Mapping[str, Place] = {}  # where tensors hold positions
        self.masked = False  # whether a mask is read after it and mixed too
        self.known = False  # whether it is known to run, and is not one of a module's runs
        self.traced = False
        self.may_count = False  # whether compiled code may count its runs, not only its tracing
        self.block_has_hooks = False  # whether a compiled block around it has hooks

        # Compiled checkpoints allow no side effects, so runs cannot be counted there. But while the
        # code is traced, it can record that it contains the mix. The compiler guards the number, so
        # that another model of the same class, whose hook has recorded nothing, has its own code.
        self.serial = str(next(_SERIAL))

        def note_trace() -> bool:
            from manifold_mixup._attach.branches import is_in_branch

            if is_in_branch():
                raise ValueError(_IN_BRANCH.format(layer))
            if passes.running is not None and passes.running.learns:
                self._require_graph(traced=True)
            self.traced = True
            return True

        def note_run() -> int:
            trace = torch._guards.CompileContext.current_trace_id()
            self.traced_runs = self.traced_runs + 1 if trace == self._trace else 1
            self._trace = trace
            return self.traced_runs - 1

        self.note_trace = torch.compiler.assume_constant_result(note_trace)
        self.note_run = torch.compiler.assume_constant_result(note_run)
        self.unseen = _autograd.unseen(self._run_eagerly)
        self.run_eagerly = torch.compiler.disable(self.unseen)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the mixed output, or None to leave it as it is."""
        if torch.compiler.is_dynamo_compiling():
            active = getattr(PLANS, self.key) if self.key else self.active
            if active.layer != self.layer:
                return None
            if self.run is not None and self._compiled_run(active) != self.run:
                return None
            self._note_mix(active)
            if needs_completion(active):
                active.complete(self._completion(output, active))
            return self._mix(output, active, active.valid)
        if self.known and self.passes.mixes_elsewhere(self.layer):
            return None
        if _autograd.compiler() is None:
            return (self.unseen if _autograd.count_of_modes() else self._run_eagerly)(output)
        return self.run_eagerly(output)

    def _note_mix(self, active: ActivePlan) -> None:
        """Count that compiled code mixes, or note that it does."""
        if self.may_count:
            active.compiled_mixes += 1
        elif self.serial:
            self.note_trace()

    def _compiled_run(self, active: ActivePlan) -> int:
        """Return the number of the module's run that is being traced."""
        if not self.may_count:
            return int(self.note_run())
        active.compiled_runs += 1
        return active.compiled_runs - 1

    def _require_graph(self, *, traced: bool = False) -> None:
        """Raise ValueError if a function with its own backward runs the layer without a graph."""
        # Hardly ever needed
        from manifold_mixup._own_backward import REASON, function_around, function_traced

        if function := function_around() or (traced and function_traced()):
            raise ValueError(f"layer {self.layer!r} cannot be mixed: {REASON.format(function)}.")

    def _run_eagerly(self, output: Any) -> Any:
        if self.counter is not None and self.counter.number != self.run:
            return None
        running = self.passes.pass_of_run(self.layer)
        if running is None:
            self.passes.note_run_outside(self.layer)
            return None
        plan = running.plan
        if plan is None or plan.layer != self.layer:
            return None
        if running.learns and not torch.is_grad_enabled():
            self._require_graph()
        running.mixed_from = running.mixed_from or _autograd.next_number()
        if plan.weight is not None and needs_completion(plan):
            plan = running.completed_plan(functools.partial(self._completion, output))
            self.active.set(running)  # compiled blocks after this layer read it
        self.active.mixed_eagerly = True
        if self._is_plain_tensor(output, plan, running.valid):
            return _mix.apply_eagerly(output, plan.lam, plan.perm, repeats=plan.repeats)
        if isinstance(output, Tensor):
            return self._mix(output, plan, running.valid)
        return self._mix_nested(output, plan, running)

    def _mix_nested(self, output: Any, plan: MixPlan, running: ForwardPass) -> Any:
        """Mix the tensors in a container."""
        require_equal_lengths(output, plan.batch, f"layer {self.layer!r} returned")
        mixed = self._mix(output, plan, running.valid)
        if running.copies is not None:
            running.copies.note(output, mixed)
        return mixed

    def _is_plain_tensor(self, output: Any, plan: MixPlan, valid: Tensor | None) -> bool:
        """Return whether an output is one real tensor of rows that are mixed as a whole."""
        if type(output) is not Tensor or not output.is_floating_point() or valid is not None:
            return False
        if plan.weight is not None or plan.noise is not None or self.unmixed or self.batch_dims:
            return False
        batch_dim = self.default_batch_dim
        if batch_dim.dim or batch_dim.folded:
            return False
        return output.ndim > 0 and output.shape[0] == plan.perm.shape[0]

    def _completion(self, output: Any, plan: PlanFields) -> Completion:
        """Return what a plan means for the first of the tensors that are mixed."""
        tensors = [(path, tensor) for path, tensor in leaves(output) if self._mixes(path, tensor)]
        path, tensor = next((each for each in tensors if each[0] in self.places), tensors[0])
        return completion_for(
            plan, tensor, self._batch_at(path, tensor, plan), self.places.get(path)
        )

    def _mixes(self, path: str, tensor: Tensor) -> bool:
        return _mix.is_continuous(tensor) and path not in self.unmixed

    def _batch_at(self, path: str, tensor: Tensor, plan: PlanFields) -> BatchDim | None:
        """Return where a tensor holds the batch; None for dimension 0."""
        at, rows = self.batch_dims.get(path, self.default_batch_dim), plan.perm.shape[0]
        if not at.fits(tensor.shape, rows):
            raise ValueError(
                f"layer {self.layer!r} should mix {rows} examples, but its output"
                f"{path and f' at {path!r}'} has shape {tuple(tensor.shape)}: dimension "
                f"{at.dim} must be the batch. Choose another layer, or attach "
                f"without check=False, so that the dimension is found."
            )
        return at if at.dim or at.folded else None

    def _mix(self, output: Any, plan: PlanFields, valid: Tensor | None) -> Any:
        mixed: list[str] = []
        valid = valid if self.masked else None

        def mix_leaf(path: str, tensor: Tensor) -> Tensor:
            if not self._mixes(path, tensor):
                return tensor
            at = self._batch_at(path, tensor, plan)
            mixed.append(path)
            return mix_state(tensor, at, plan, valid, self.places.get(path), len(mixed) - 1)

        result = map_leaves(mix_leaf, output)
        if not mixed:
            raise ValueError(
                f"layer {self.layer!r} should be mixed, but its output, a {type(output).__name__}, "
                f"contains no floating point tensor on which the model's output is known to "
                f"depend. Choose another layer."
            )
        return result


class AfterLayerHook(Hook):
    """A hook on a module that runs after mixed layers, where more is mixed than their outputs."""

    def __init__(
        self, owner: object, active: ActivePlan, passes: Passes, layers: Mapping[str, LayerHook]
    ) -> None:
        self.owner = owner
        self.active = active
        self.passes = passes
        self.layers = layers

        def note_trace() -> bool:
            active.newly_compiled = True
            return True

        self.note_trace = torch.compiler.assume_constant_result(note_trace)

    def mixed_pass(self, layers: Container[str]) -> tuple[ForwardPass, MixPlan] | None:
        """Return the pass and its plan if the plan's layer, one of these, has run; else None."""
        running = self.passes.current()
        plan = None if running is None else running.plan
        if running is None or plan is None or plan.layer not in layers:
            return None
        hook = self.layers.get(plan.layer)  # the input has none
        ran = running.runs[plan.layer] or self.active.compiled_mixes
        if hook is not None and not ran and not hook.traced:
            return None  # the layer was skipped, or runs later
        return running, plan


class MaskHook(AfterLayerHook):
    """Passes the mixed mask to a module that reads a mask after the mixed layer."""

    def __init__(
        self, owner: object, active: ActivePlan, passes: Passes, layers: Mapping[str, LayerHook]
    ) -> None:
        super().__init__(owner, active, passes, layers)
        # For each mixed layer, the arguments of the module that are masks.
        self.reads: dict[str, list[Reader]] = {}
        self.run_eagerly = torch.compiler.disable(_autograd.unseen(self._run_eagerly))

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return the arguments with mixed masks, or None to keep them as they are."""
        if torch.compiler.is_compiling():
            layer, valid = self.active.layer, self.active.valid
            lam, perm = self.active.lam, self.active.perm
            if layer not in self.reads or valid is None:
                return None
            if self.reads[layer][0].early and not self.active.mixed:
                return None  # it runs before the layer
            self.note_trace()
            # Blocks with the same mask repeat this work, which the compiler can deduplicate.
            return self._mix(layer, (args, kwargs), lam, perm, valid, [])
        return self.run_eagerly(args, kwargs)

    def _run_eagerly(self, args: Any, kwargs: Any) -> Any:
        found = self.mixed_pass(self.reads)
        if found is None:
            return None
        running, plan = found
        if running.valid is None:
            return None
        given = args, kwargs
        mixed = self._mix(plan.layer, given, plan.lam, plan.perm, running.valid, running.masks)
        if mixed is not None and running.copies is not None:
            running.copies.note(given, mixed)
        return mixed

    def _mix(
        self,
        layer: str,
        arguments: Any,
        lam: Tensor,
        perm: Tensor,
        valid: Tensor,
        cache: list[tuple[Tensor, Any, Tensor]],
    ) -> Any:
        tensors = dict(leaves(arguments))
        floating = (tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        dtype = next(floating, torch.float32)
        mixed = {}
        for reader in self.reads[layer]:
            mask, form = tensors.get(reader.path), (dtype, reader.weighs, reader.forbids)
            if mask is None:
                continue  # a model may drop a mask that masks nothing
            found = [done for source, used, done in cache if source is mask and used == form]
            if not found:
                found = [_mixed_for(reader, mask, lam, perm, valid, dtype)]
                cache.append((mask, form, found[0]))
            mixed[reader.path] = found[0]
        return replace_at(mixed, arguments) if mixed else None


def _mixed_for(
    reader: Reader, mask: Tensor, lam: Tensor, perm: Tensor, valid: Tensor, dtype: torch.dtype
) -> Tensor:
    """Mix a mask in the form that a module can read."""
    if reader.forbids:
        partners = mask.index_select(reader.batch_dim, perm.to(mask.device))
        return mask_pair.pair(mask, partners, lam.to(mask.device), reader.batch_dim)
    return _masks.mix_mask(mask, lam, perm, valid, dtype=dtype, weights=reader.weighs)


def put_on(
    model: nn.Module, hooks: Mapping[str, Callable[..., Any]], *, before: bool = False
) -> list[Any]:
    """Register those hooks that are not on the model's modules yet, and return their handles.

    Args:
        model: the model.
        hooks: for each module, its hook.
        before: whether they are forward pre-hooks.
    """
    modules = named_layers(model) if hooks else {}
    register = hook_before if before else hook_after
    handles: list[Any] = []
    for name, hook in hooks.items():
        module = modules[name]
        if hook not in (module._forward_pre_hooks if before else module._forward_hooks).values():
            handles += [compiled.Mark(module), register(module, hook)]
    return handles
