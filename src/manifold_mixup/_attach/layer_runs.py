"""Check whether a plan's layer ran: once, skipped this time (LayerDrop), or never."""

from collections.abc import Iterable, Mapping

from torch import nn

from manifold_mixup._attach.compiled import runs_compiled
from manifold_mixup._attach.forward_pass import ForwardPass
from manifold_mixup._attach.hooks import LayerHook
from manifold_mixup._attach.placement import Placement
from manifold_mixup._layers import (
    module_name,
    named_layers,
    run_name,
)


class LayerRuns:
    """Checks the runs of the eligible layers."""

    def __init__(self, model: nn.Module, hooks: Mapping[str, LayerHook]) -> None:
        self.model = model
        self.hooks = hooks
        self.known: set[str] = set()  # layers that ran, in a forward pass or a dry run
        self.placement = Placement(model, hooks)

    def skipped(self, finished: ForwardPass, compiled_runs: int) -> bool:
        """Return whether the layer to be mixed did not run in this pass.

        Args:
            finished: the pass.
            compiled_runs: how often compiled code mixed in this pass, which the pass does not
                count.

        Raises:
            RuntimeError: the layer ran several times, its hook can never run, or its name now
                refers to another module.
        """
        if not finished.runs.keys() <= self.known:
            self.note_ran(finished.runs)
        plan = finished.plan
        if plan is None:
            return False
        self.placement.require(plan.layer)
        hook = self.hooks.get(plan.layer)
        if hook is None:  # an input
            return False
        runs = finished.runs[plan.layer] + compiled_runs
        if runs != 1 or hook.inspected_runs != 1 or hook.traced:
            self._require_count(hook, runs)
        hook.traced |= compiled_runs > 0
        if runs or (hook.traced and not hook.may_count):
            return False
        self._require_hook(plan.layer)
        return True

    def note_ran(self, ran: Iterable[str]) -> None:
        """Note layers that run; their hooks need not count in a pass that mixes elsewhere."""
        for name in ran:
            if name not in self.known:
                self.known.add(name)
                self.hooks[name].known = self.hooks[name].counter is None

    def _require_count(self, hook: LayerHook, runs: int) -> None:
        """Raise if a layer was mixed another number of times than it should have been."""
        if hook.all_runs:
            if runs and runs != hook.inspected_runs:
                raise RuntimeError(
                    f"{module_name(hook.layer)!r} ran {runs} times in one forward pass, but "
                    f"{hook.inspected_runs} times when {hook.layer!r} was checked. Choose another "
                    f"layer."
                )
        elif runs > 1:
            raise RuntimeError(_repeated(hook.layer, runs))
        if hook.run is not None and hook.traced_runs and hook.traced_runs != hook.inspected_runs:
            raise RuntimeError(_uncounted(hook))

    def _require_hook(self, layer: str) -> None:
        """Raise if a layer was not skipped at random, but can never be mixed."""
        module, hook = named_layers(self.model).get(module_name(layer)), self.hooks[layer]
        if module is None or hook not in module._forward_hooks.values():
            raise RuntimeError(
                f"layer {layer!r} should be mixed, but its hooks were removed. Attach again with "
                f"replace=True."
            )
        compiled = runs_compiled(self.model, module_name(layer))
        if not hook.traced and (compiled or layer not in self.known):
            raise RuntimeError(_never_ran(layer, compiled))


def _repeated(layer: str, runs: int) -> str:
    return (
        f"layer {layer!r} ran {runs} times in one forward pass, and its states would be mixed "
        f"{runs} times. Choose a layer that runs once, for example the module around it, or one "
        f"run, {run_name(layer, 0)!r} to {run_name(layer, runs - 1)!r}."
    )


def _uncounted(hook: LayerHook) -> str:
    module = module_name(hook.layer)
    count = hook.inspected_runs
    known = "is not known" if count is None else f"was {count} when it was checked"
    return (
        f"layer {hook.layer!r} is one run of {module!r}. The number of runs {known}, and a "
        f"compiled graph contains {hook.traced_runs}, so it cannot be told which of them is which. "
        f"Compile with fullgraph=True and leave check on, or mix at a layer that runs once."
    )


def _never_ran(layer: str, compiled: bool) -> str:
    if compiled:
        return (
            f"layer {layer!r} should be mixed, but the compiled code does not contain the mix: it "
            f"was compiled before ManifoldMixup was attached, or never runs this layer. Attach "
            f"before the first compiled call, or call torch.compiler.reset()."
        )
    return (
        f"layer {layer!r} should be mixed, but it has never run. Its forward may not be called (a "
        f"container, or a module whose weights are used directly); find_layers(model, example) "
        f"lists the layers that run."
    )
