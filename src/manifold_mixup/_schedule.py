"""Which plan comes next: drawn from the stream, or the one that the user gives."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from manifold_mixup._plan import MixPlan
from manifold_mixup._sample import Stream


class Schedule:
    """The plans of the forward passes of one model, in order.

    Args:
        stream: draws the plan of every training pass for which the user gives none.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._overrides: list[MixPlan | None] = []  # of `using` and `paused`, the innermost last

    def __repr__(self) -> str:
        stream = self._stream
        alpha = getattr(stream.alpha, "__name__", stream.alpha)
        each = ", per_sample=True" if stream.per_sample else ""
        return f"alpha={alpha}, p={stream.p}{each}, seed={stream.seed}, step={stream.step}"

    @property
    def overridden(self) -> bool:
        """Whether the user gives the plan of the next pass."""
        return bool(self._overrides)

    @contextmanager
    def override(self, plan: MixPlan | None) -> Iterator[None]:
        """Mix every pass inside by ``plan``, or none of them. Of several, the innermost counts."""
        self._overrides.append(plan)
        try:
            yield
        finally:
            self._overrides.pop()

    def mixes(self, training: bool) -> bool:
        """Return whether the next pass has a plan: in training, unless it is overridden."""
        return self._overrides[-1] is not None if self._overrides else training

    def next(self, layers: Sequence[str], lead: Tensor) -> MixPlan | None:
        """Return the plan of the next pass, which `mixes`; None if the stream leaves it out.

        Args:
            layers: the eligible layers.
            lead: the input whose dimension 0 is the batch.

        Raises:
            ValueError: the user's plan is for another batch size.
        """
        if not self._overrides or self._overrides[-1] is None:
            return self._stream.draw(layers, len(lead), lead.device)
        # Moved once, so that all passes of one plan know it for the same.
        plan = self._overrides[-1] = self._overrides[-1].to(lead.device)
        if plan.batch != len(lead):
            raise ValueError(
                f"the plan in use pairs {plan.batch} examples, but the model was called with "
                f"{len(lead)}, shape {tuple(lead.shape)}."
            )
        return plan

    def state_dict(self) -> dict[str, int]:
        """Return the seed and the step of the stream."""
        return {"seed": self._stream.seed, "step": self._stream.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from the state of `state_dict`.

        Raises:
            ValueError: ``state`` is no such state.
        """
        good = set(state) == {"seed", "step"} and all(
            type(value) is int for value in state.values()
        )
        if not good:
            raise ValueError(f"a state holds the numbers seed and step, but this is {state!r}.")
        self._stream.seed, self._stream.step = state["seed"], state["step"]
