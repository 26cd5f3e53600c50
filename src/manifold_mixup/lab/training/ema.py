"""The exponential moving average of a model's weights."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from manifold_mixup.lab.runs import weights


class Average:
    """The exponential moving average of a model's weights, or the model itself.

    Args:
        model: the model that is trained.
        decay: the decay per step; 0 for no averaging.
        warm_up: in the first steps, average over all of them: the decay of step ``t`` is at most
            ``1 - 1 / (t + 1)``, as for a mean teacher.
    """

    def __init__(self, model: nn.Module, decay: float, *, warm_up: bool = False) -> None:
        self._decay = decay
        self._warm_up = warm_up
        self._follower = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
            if decay
            else None
        )
        self._model = model

    @property
    def model(self) -> nn.Module:
        """The model to evaluate."""
        return self._model if self._follower is None else self._follower.module

    def load(self, state: weights.Weights) -> None:
        """Resume from averaged weights."""
        weights.load(self.model, state)
        if self._follower is not None:
            self._follower.n_averaged.fill_(1)  # at 0, the next update would copy the model

    def update(self, step: int = 0) -> None:
        """Update the average after a step, which is counted from 0."""
        if self._follower is not None:
            if self._warm_up:
                decay = min(1 - 1 / (step + 1), self._decay)
                self._follower.multi_avg_fn = get_ema_multi_avg_fn(decay)
            self._follower.update_parameters(self._model)
