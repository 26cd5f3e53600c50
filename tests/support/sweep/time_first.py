"""Models of plain PyTorch: time first, one sequence without a batch, bags of words."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]

TIME, BATCH = 7, 4


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, 50, shape, generator=torch.Generator().manual_seed(0))


class Tagger(nn.Module):
    """Two recurrent layers, and a class for each time step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn1, self.rnn2 = nn.LSTM(6, 16), nn.LSTM(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of each step."""
        return self.head(self.rnn2(self.rnn1(x)[0])[0])


class LanguageModel(nn.Module):
    """PyTorch's word language model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rnn = nn.Embedding(50, 16), nn.LSTM(16, 16, 2, dropout=0.2)
        self.drop, self.decoder = nn.Dropout(0.2), nn.Linear(16, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next words."""
        return self.decoder(self.drop(self.rnn(self.drop(self.encoder(ids)))[0]))


class Encoder(nn.Module):
    """Three layers of attention, and a class for each step or for the whole series."""

    def __init__(self, *, pools: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 16)
        block = nn.TransformerEncoderLayer(16, 2, 32)
        self.encoder = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
        self.head, self.pools = nn.Linear(16, 5), pools

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        states = self.encoder(self.stem(x))
        return self.head(states.mean(0) if self.pools else states)


class Leaking(nn.Module):
    """A state that leaks, in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of each step."""
        states, state = [], 0.0
        for current in self.fc1(x):
            state = 0.9 * state + current
            states.append(self.fc2(state.tanh()))
        return torch.stack(states)


class Bags(nn.Module):
    """The mean embedding of bags of words that lie one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.bags, self.fc1, self.fc2 = nn.EmbeddingBag(50, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Return the logits of each bag."""
        return self.fc2(self.fc1(self.bags(ids, offsets)).relu())


def cases() -> Iterator[tuple[str, Callable[[], Built]]]:
    """Yield names, and functions that build a model and a batch."""
    series = _random(TIME, BATCH, 6)
    yield "torch/LSTM tagger, time first", lambda: (Tagger(), (series,), {})
    yield "torch/language model, time first", lambda: (LanguageModel(), (_ids(TIME, BATCH),), {})
    for name, pools in (("tagger", False), ("classifier", True)):
        yield (
            f"torch/TransformerEncoder {name}, time first",
            lambda pools=pools: (Encoder(pools=pools), (series,), {}),
        )
    yield "torch/leaking state, time first", lambda: (Leaking(), (series,), {})
    yield "torch/LSTM tagger of one sequence", lambda: (Tagger(), (_random(TIME, 6),), {})
    offsets = torch.tensor([0, 3, 5, 9])
    yield "torch/EmbeddingBag with offsets", lambda: (Bags(), (_ids(12), offsets), {})
