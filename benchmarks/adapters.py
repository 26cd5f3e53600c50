"""What mixing adds to a step in the Trainer of Transformers, compared with a loop of one's own.

The network is small, so that the fixed cost is seen. A step is what the Trainer does with a batch,
and the optimizer's step.
"""

import statistics
import time
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from benchmarks.fixed import BATCH
from benchmarks.steps import ALPHA, Step
from benchmarks.tasks import CLASSES
from benchmarks.turns import Clock, Timing, Way, in_turns, in_units
from manifold_mixup import ManifoldMixup
from manifold_mixup.integrations.transformers import add_to_trainer

WIDTH = 64
LAYERS = ("input", "net.1", "net.3")
OWN, TRAINER = "a loop of one's own", "Transformers' `Trainer`"


class SmallForSequenceClassification(PreTrainedModel):
    """An MLP of four layers that computes its loss as Transformers' own models do."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        torch.manual_seed(0)
        hidden = [each for _ in range(3) for each in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.net = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))
        self.num_labels = CLASSES
        self.post_init()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the logits, and the loss if there are labels."""
        logits = self.net(x)
        if labels is None:
            return {"logits": logits}
        loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return {"loss": loss, "logits": logits}


def measure(seconds: float) -> list[Timing]:
    """Return what mixing adds in a loop of one's own and in the Trainer, in processor time."""
    with TemporaryDirectory() as folder:
        ways = {
            f"{name}, {'mixed' if mixed else 'plain'}": Way(make(mixed=mixed, folder=folder))
            for name, make in ((OWN, _own), (TRAINER, _in_trainer))
            for mixed in (False, True)
        }
        times = in_turns(ways, seconds, Clock("cpu", now=time.process_time))
    more = {
        name: [
            mixed - plain
            for mixed, plain in zip(times[f"{name}, mixed"], times[f"{name}, plain"], strict=True)
        ]
        for name in (OWN, TRAINER)
    }
    unit = statistics.median(more[OWN])
    return [in_units(name, taken, unit) for name, taken in more.items()]


def _model() -> SmallForSequenceClassification:
    config = PretrainedConfig(num_labels=CLASSES)
    config.problem_type = "single_label_classification"
    return SmallForSequenceClassification(config).train()


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, WIDTH, generator=generator)
    return {"x": x, "labels": torch.randint(CLASSES, (BATCH,), generator=generator)}


def _attached(model: nn.Module) -> ManifoldMixup:
    example = {"x": _batch()["x"][:2]}
    return ManifoldMixup(model, LAYERS, example=example, alpha=ALPHA, seed=0)


def _own(*, mixed: bool, folder: str) -> Step:
    del folder
    model, batch, criterion = _model(), _batch(), cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    of_output: Any = _attached(model).wrap(criterion) if mixed else criterion

    def step() -> None:
        of_output(model(batch["x"])["logits"], batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _in_trainer(*, mixed: bool, folder: str) -> Step:
    model, batch, items = _model(), _batch(), torch.tensor(BATCH)
    settings: Any = {"report_to": [], "use_cpu": True, "disable_tqdm": True}
    args = TrainingArguments(folder, remove_unused_columns=False, **settings)
    rows = [{name: tensor[row] for name, tensor in batch.items()} for row in range(BATCH)]
    trainer = Trainer(model, args, train_dataset=rows)
    trainer.current_gradient_accumulation_steps = 1  # train() would set it
    if mixed:
        add_to_trainer(trainer, _attached(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        trainer.training_step(model, dict(batch), items)
        optimizer.step()
        optimizer.zero_grad()

    return step
