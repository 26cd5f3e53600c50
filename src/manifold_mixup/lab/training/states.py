"""Flatness and neural collapse of the hidden states, measured while a run is trained."""

from dataclasses import dataclass
from pathlib import Path

from manifold_mixup.lab import evaluate
from manifold_mixup.lab.data import Data, take, take_tested
from manifold_mixup.lab.evaluate import Settings
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import provenance, states_log
from manifold_mixup.lab.training.job import Job

PARTS = ("flatness", "collapse")
_EXAMPLES = 5000


@dataclass(frozen=True)
class States:
    """When the hidden states are measured, and where.

    Attributes:
        every: the number of epochs from one measurement to the next; the last epoch has one too.
        layers: the layers that are measured, besides the input of the last linear layer.
    """

    every: int
    layers: tuple[str, ...]

    def due(self, epoch: int, epochs: int) -> bool:
        """Return whether the states after an epoch are measured."""
        return epoch % self.every == 0 or epoch == epochs


def check_states(run: Recipe, every: int) -> None:
    """Raise a `ValueError` if the states of a run cannot be measured while it trains."""
    if every < 1:
        raise ValueError(f"--states-every is {every}. Expected 1 or more.")
    why = {
        "a run of numbers has no classes whose states could be measured": run.regression,
        "the states of a compiled model are not seen (--no-compile)": run.compile,
        "several processes train this run, each with a part of it": provenance.processes() > 1,
    }
    for reason, holds in why.items():
        if holds:
            raise ValueError(f"--states-every is {every}, but {reason}. Leave it out.")


def few(data: Data) -> Data:
    """Return the data with at most 5,000 training and 5,000 test examples, always the same."""
    if len(data.x) > _EXAMPLES:
        data = take(data, _EXAMPLES)
    return take_tested(data, _EXAMPLES) if len(data.x_test) > _EXAMPLES else data


def measure(job: Job, states: States, folder: Path, epoch: int) -> None:
    """Measure the states after an epoch, of the weights that are evaluated, and log them."""
    measured = evaluate.evaluate(
        job.average.model, few(job.data), battery=PARTS, settings=Settings(layers=states.layers)
    )
    states_log.add(folder, epoch, {part: measured[part] for part in PARTS})
