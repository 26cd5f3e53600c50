"""Explain what bypasses a state: what the outputs depend on, but not through it."""

import functools
from collections.abc import Sequence

from manifold_mixup._structure.flow import Flow, data_sources, side_sources
from manifold_mixup._structure.losses_inside import loss_inside
from manifold_mixup._structure.recorded import Leaf, Trace
from manifold_mixup._structure.row import READ, listed

_RESIDUAL = "the residual path around it carries the unmixed state"
UNSEEN = (
    "forward computes outside PyTorch's operators (NumPy, lists, a kernel launched directly), so "
    "it cannot be seen whether the result depends on this layer. Mix a layer after that "
    "computation, or wrap the kernel with torch.library; if verify() proves the layer, set "
    "check=False"
)
# Reasons that no operator shows, by the kind of the values.
_CAUSES = {
    "gradient": (
        "forward takes a derivative with respect to a value before this layer, and the gradient "
        "bypasses the mix. Mix that value itself, or a layer after the derivative"
    ),
    "unseen": UNSEEN,
}


class Bypasses:
    """What bypasses the states of a recorded pass.

    Args:
        trace: the recording.
        flow: its flow to the outputs that must be mixed.
        outputs: these outputs.
        targets: names of the inputs that only a loss inside the model reads.
    """

    def __init__(
        self, trace: Trace, flow: Flow, outputs: Sequence[Leaf], targets: Sequence[str]
    ) -> None:
        self._flow, self._outputs, self._targets = flow, outputs, targets
        self._trace, self._names = trace, [leaf.path for leaf in trace.inputs]

    def reason(self, bypass: int, mixed: Sequence[int]) -> str:
        """Describe what bypasses the values ``mixed``; empty if ``bypass`` is.

        Args:
            bypass: the colours that bypass them.
            mixed: the values.
        """
        late, passing = data_sources(bypass), data_sources(self._flow.total)
        sides = self.names(side_sources(bypass))
        targets = [name for name in (*self.names(late), *sides) if name in self._targets]
        if targets:
            return loss_inside(targets)
        if not late:
            return f"the side {_inputs(sides)} {READ}" if sides else ""
        if cause := self._cause_outside_operators(mixed):
            return cause
        if len(late) < len(passing):
            return f"the {_inputs(self.names(late))} {READ}"
        return self._missed_outputs(mixed)

    def names(self, indices: Sequence[int]) -> tuple[str, ...]:
        """Return the names of inputs."""
        return tuple(self._names[index] for index in indices)

    @functools.cached_property
    def _outside_operators(self) -> dict[str, list[int]]:
        """The values that no operator explains, by kind."""
        found: dict[str, list[int]] = {kind: [] for kind in _CAUSES}
        for index, node in enumerate(self._trace.nodes):
            if node.kind in found:
                found[node.kind].append(index)
        return found

    def _cause_outside_operators(self, mixed: Sequence[int]) -> str:
        """Return the reason if data bypasses the values outside operators; empty otherwise."""
        for kind, values in self._outside_operators.items():
            if values and not data_sources(self._flow.bypassing([*mixed, *values])):
                return _CAUSES[kind]
        return ""

    def _missed_outputs(self, mixed: Sequence[int]) -> str:
        reached = 0
        for node in mixed:
            reached |= self._flow.reaches[node]
        missed = [leaf.path for index, leaf in enumerate(self._outputs) if not reached >> index & 1]
        if not missed:
            return _RESIDUAL
        some = f"output{'s' if len(missed) > 1 else ''} {listed(missed)}"
        if not reached & 1:
            others = [leaf.path for leaf in self._outputs if leaf.path not in missed]
            return (
                f"it is on a side branch: the {some} of the model would stay unmixed. If the loss "
                f"reads only {listed(others)}, set "
                f"outputs={repr(others[0]) if len(others) == 1 else others}"
            )
        first = self._mixed_part(missed)
        return (
            f"the auxiliary {some} of the model would stay unmixed. If the loss reads "
            f"only {first!r}, set outputs={first!r}"
        )

    def _mixed_part(self, missed: Sequence[str]) -> str:
        """Return the name of the first output, or of the tuple or dict it is in if all is mixed."""
        path = self._outputs[0].path
        whole = path.split(".")[0]
        return path if any(name.split(".")[0] == whole for name in missed) else whole


def asks_for_code(reason: str) -> bool:
    """Return whether a reason is clearer with the code that reads what bypasses."""
    return reason.endswith((_RESIDUAL, READ))


def _inputs(names: Sequence[str]) -> str:
    return f"inputs {listed(names)} are" if len(names) > 1 else f"input {listed(names)} is"
