"""Looks at models that run many small operators in a Python loop, in forward passes."""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.look import looked_at, operators, seconds
from manifold_mixup import find_layers

WIDTH = 128


class LoopOverTime(nn.Module):
    """Classifies sequences ``(batch, steps, width)`` by an LSTM cell that runs at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.cell = nn.LSTMCell(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, ``(batch, 10)``."""
        state = None
        for step in self.embed(x).unbind(1):
            state = self.cell(step, state)
        assert state is not None
        return self.head(state[0])  # type: ignore[no-any-return]


def measure(rounds: int, *, small: bool = False) -> list[dict[str, Any]]:
    """Measure looks in turns with plain forward passes, in processor time.

    Args:
        rounds: how often each model is looked at.
        small: whether the models are very small, for a smoke test.

    Returns:
        For each model the median seconds of a forward pass, the median ratio of a look to the
        passes around it, and the operators of a plain forward pass in train mode and of a look.
    """
    found = []
    for name, model, batch in _models(small):
        plain, look = _pass(model, batch), _look(model, batch)
        look()
        times = [(seconds(plain), seconds(look), seconds(plain)) for _ in range(rounds)]
        passes = [(before + after) / 2 for before, _, after in times]
        ratios = [taken / one for (_, taken, _), one in zip(times, passes, strict=True)]
        found.append(
            {
                "name": name,
                "plain": statistics.median(passes),
                "ratio": statistics.median(ratios),
                "operators": operators(plain),
                "looked": looked_at(model, batch),
            }
        )
    return found


def _models(small: bool) -> Iterator[tuple[str, nn.Module, Tensor]]:
    torch.manual_seed(0)
    steps = 8 if small else 128
    name = f"LSTM cell of width {WIDTH}, {steps} steps in a loop, batch 64"
    yield name, LoopOverTime().train(), torch.randn(64, steps, WIDTH)
    from transformers import MambaConfig, MambaModel

    depth = 2 if small else 24
    config = MambaConfig(
        vocab_size=100, hidden_size=WIDTH, num_hidden_layers=depth, use_cache=False
    )
    name = f"Transformers' Mamba, {depth} layers of width {WIDTH}, 4 x 32 tokens"
    yield name, MambaModel(config).train(), torch.randint(100, (4, 32))


def _pass(model: nn.Module, batch: Tensor) -> Callable[[], Any]:
    return lambda: model(batch)


def _look(model: nn.Module, batch: Tensor) -> Callable[[], Any]:
    return lambda: find_layers(model, batch)
