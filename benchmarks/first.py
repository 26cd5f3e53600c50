"""The first training step with a padding mask, which looks at the model and proves its layers."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup, find_layers

CLASSES = 10
ROWS, TOKENS, VOCABULARY = 8, 64, 30_000


def bert(width: int = 384, depth: int = 12) -> nn.Module:
    """Return a BERT for classification; the default has 34 million parameters."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        num_labels=CLASSES,
    )
    return BertForSequenceClassification(config).train()


def sentences() -> dict[str, Tensor]:
    """Return a batch of sentences of different lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = TOKENS - 6 * torch.arange(ROWS)
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    ids = torch.randint(5, VOCABULARY, (ROWS, TOKENS), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask}


def measure(rounds: int, *, small: bool = False) -> list[dict[str, float]]:
    """Measure the first step for one, two and four eligible layers, in turns with plain steps.

    Args:
        rounds: how often a new attachment makes a first step.
        small: whether the model is a very small one, for a smoke test.

    Returns:
        For each number of layers, the seconds of a plain step and the median ratio of a first step
        to the plain ones around it, in processor time; and the passes of the proof.
    """
    model = bert(64, 4) if small else bert()
    batch, y = sentences(), torch.arange(ROWS) % CLASSES
    depth = model.config.num_hidden_layers
    find_layers(nn.Linear(2, 2), torch.ones(2, 2))  # imports what it needs
    _first(model, batch, y, _layers(depth, 1))()
    found = []
    for count in (1, 2, 4):
        first = _first(model, batch, y, _layers(depth, count))
        plain = _step(model, batch, y, cross_entropy)
        times = [(_seconds(plain), _seconds(first), _seconds(plain)) for _ in range(rounds)]
        steps = [(before + after) / 2 for before, _, after in times]
        ratios = [taken / step for (_, taken, _), step in zip(times, steps, strict=True)]
        with counted_passes() as passes:
            first()
        row = {"plain": statistics.median(steps), "ratio": statistics.median(ratios)}
        found.append({"layers": count, **row, "passes": len(passes)})
    return found


def _layers(depth: int, count: int) -> list[str]:
    return [f"bert.encoder.layer.{block}" for block in range(0, depth, depth // count)]


def _first(model: nn.Module, batch: dict[str, Tensor], y: Tensor, layers: list[str]) -> Any:
    def run() -> None:
        with ManifoldMixup(model, layers, mask="attention_mask", seed=0) as mixup:
            _step(model, batch, y, mixup.wrap(cross_entropy))()

    return run


def _step(
    model: nn.Module, batch: dict[str, Tensor], y: Tensor, criterion: Callable[..., Tensor]
) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad()
        criterion(model(**batch).logits, y).backward()

    return run


def _seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@contextmanager
def counted_passes() -> Iterator[list[tuple[int, bool]]]:
    """Note each pass of a proof: its examples, and whether its layer is mixed."""
    from manifold_mixup._proof.bench import Bench

    theirs, passes = Bench.run_pass, []

    def counted(self: Any, perm: Any, plan: Any, *given: Any, **named: Any) -> Any:
        rows = self.examples.count if perm is None else len(perm)
        passes.append((rows, plan is not None))
        return theirs(self, perm, plan, *given, **named)

    Bench.run_pass = counted  # type: ignore[method-assign]
    try:
        yield passes
    finally:
        Bench.run_pass = theirs  # type: ignore[method-assign]
