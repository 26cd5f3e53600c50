"""The model that is evaluated, and the outputs that several parts use."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manifold_mixup.lab.data import Data, as_input
from manifold_mixup.lab.evaluate import distance
from manifold_mixup.lab.evaluate.battery.checks import require_logits
from manifold_mixup.lab.evaluate.battery.settings import Settings
from manifold_mixup.lab.evaluate.deform import Deformation, deform
from manifold_mixup.lab.evaluate.inference import device_of, logits
from manifold_mixup.lab.evaluate.neighbours import (
    NoFeatures,
    features,
    outputs_and_features,
)
from manifold_mixup.lab.evaluate.robustness import Robustness, sample_rows

Row = dict[str, Any]
# The name of a row, and a function that computes it.
Job = tuple[str, Callable[[], Row]]


class Outputs(NamedTuple):
    """Logits, and the scores by distance of the same pass, if those are wanted."""

    logits: Tensor
    scores: Tensor | None


@dataclass(frozen=True)
class Subject:
    """A model with its test set, and the outputs that several parts use.

    With ``distances``, each pass also scores the inputs by their distance to the training set.
    ``outputs`` are the logits of the test set, if they are known.
    """

    model: nn.Module
    data: Data
    settings: Settings
    distances: bool
    outputs: Tensor | None = None
    _deformed: dict[Deformation, Outputs] = field(default_factory=dict)

    @cached_property
    def y(self) -> Tensor:
        """The labels of the test set, on the model's device."""
        return self.data.y_test.to(device_of(self.model, self.data.x_test))

    @cached_property
    def clean(self) -> Tensor:
        """The logits of the test set."""
        if self.outputs is not None:
            return self.outputs.to(self.y.device)
        return self.test_outputs.logits

    @cached_property
    def test_outputs(self) -> Outputs:
        """The outputs for the test set."""
        return self.outputs_for(self.data.x_test)

    @cached_property
    def feature_bank(self) -> distance.FeatureBank | str:
        """The features of training examples, or why the model has none."""
        x = distance.sample(self.data.x, generator=self.generator())
        try:
            return distance.feature_bank(features(self.model, x, layer=self.settings.features))
        except NoFeatures as error:
            return f"no distances: {error}"

    @torch.inference_mode()
    def outputs_for(self, x: Tensor) -> Outputs:
        """Return the outputs for many inputs."""
        if not self.distances or isinstance(self.feature_bank, str):
            return Outputs(logits(self.model, x), None)
        batches = [
            (output, self.feature_bank.score(states))
            for output, (states,) in outputs_and_features(
                self.model, x, layers=[self.settings.features]
            )
        ]
        return Outputs(*map(torch.cat, zip(*batches, strict=True)))

    def deformed(self, deformation: Deformation) -> Outputs:
        """The outputs for the deformed test set."""
        if deformation not in self._deformed:
            x = deform(
                self.data.x_test,
                deformation,
                generator=self.generator(),
                interpolation=self.settings.interpolation,
                fill=self.settings.fill,
            )
            self._deformed[deformation] = self.outputs_for(x)
        return self._deformed[deformation]

    def check_outputs(self) -> None:
        """Raise if the outputs, those of the model for two examples or those given, are no logits.

        Raises:
            TypeError: the model does not return a tensor.
            ValueError: there is not one logit for each class.
        """
        x, model = self.data.x_test, f"the outputs of {type(self.model).__name__}"
        if self.outputs is not None:
            require_logits(self.outputs, self.data, count=len(x), of="the given outputs")
        else:
            few = x[:2]
            require_logits(logits(self.model, few), self.data, count=len(few), of=model)

    @property
    def images(self) -> bool:
        """Whether the inputs are images."""
        return are_images(self.data)

    @cached_property
    def attacked(self) -> Robustness:
        """The test examples that are attacked with APGD and Square."""
        data, budget = self.data, self.settings.budget
        rows = sample_rows(len(data.x_test), budget.images, generator=self.generator())
        device = self.y.device
        return Robustness(
            self.model,
            as_input(data.x_test[rows].to(device)),
            self.y[rows.to(device)],
            eps=data.eps,
            bounds=data.bounds,
            budget=budget,
            seed=self.settings.seed,
        )

    def generator(self) -> torch.Generator:
        """Return a new generator that starts from the seed."""
        return torch.Generator().manual_seed(self.settings.seed)


def are_images(data: Data) -> bool:
    """Return whether the inputs are images."""
    return data.x_test.ndim == 4
