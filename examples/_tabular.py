"""Common code of the tabular examples: a table as tensors, and the two networks.

Both networks turn each number and each category into a token (Gorishniy et al., "Revisiting Deep
Learning Models for Tabular Data", 2021), which a perceptron or a transformer reads.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import QuantileTransformer
from torch import nn
from torch.utils.data import TensorDataset


def read(paths, wanted, **settings):
    """Read CSV files as one table, with settings of `pandas.read_csv`.

    Raises:
        FileNotFoundError: a file is missing; the message names the ``wanted`` content.
    """
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no file {path}. Expected {wanted}. Without --data, scikit-learn "
                f"downloads the table."
            )
    return pd.concat([pd.read_csv(path, **settings) for path in paths], ignore_index=True)


def tensors(frame, target, *, seed, rows, split):
    """Draw training rows with the seed; the rows to score on are the same for every seed.

    Args:
        frame: a table; columns without numbers are categories.
        target: the name of the column to predict.
        seed: seed of the training rows.
        rows: number of training rows.
        split: the rows to score on, ``"test"`` or ``"validation"``: a fifth of the table each.

    Returns:
        The number of categories in all columns together, the training data and the data to score
        on. The data sets have numbers ``(n, columns)``, categories ``(n, columns)``, if any, and
        targets.
    """
    order = np.random.default_rng(0).permutation(len(frame))
    fifth = len(frame) // 5
    scored = {"test": order[:fifth], "validation": order[fifth : 2 * fifth]}[split]
    trained = np.random.default_rng(seed).permutation(order[2 * fifth :])[:rows]
    x = frame.drop(columns=target)
    numbers = x.select_dtypes("number")
    scale = QuantileTransformer(output_distribution="normal", n_quantiles=min(len(trained), 1000))
    parts = [torch.from_numpy(scale.fit(numbers.iloc[trained]).transform(numbers)).float()]
    levels = 0
    if words := [name for name in x if name not in numbers]:
        codes = np.stack([pd.factorize(x[name], sort=True)[0] + 1 for name in words], axis=1)
        sizes = codes.max(axis=0) + 1  # code 0 is for missing values
        parts.append(torch.from_numpy(codes + np.cumsum(sizes) - sizes))
        levels = int(sizes.sum())
    y = torch.tensor(frame[target].to_numpy())
    parts.append(y if y.dtype == torch.int64 else y.float()[:, None])
    return levels, *(
        TensorDataset(*(part[chosen] for part in parts)) for chosen in (trained, scored)
    )


class Tokens(nn.Module):
    """A class token, and a token for each number and category: ``(B, 1 + columns, width)``."""

    def __init__(self, numbers, levels, width):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(1 + numbers, width) / width**0.5)
        self.shift = nn.Parameter(torch.randn(1 + numbers, width) / width**0.5)
        self.embed = nn.Embedding(levels, width) if levels else None

    def forward(self, numbers, categories=None):
        ones = torch.ones_like(numbers[:, :1])  # the class token is a number with the constant 1
        tokens = torch.cat([ones, numbers], dim=1)[:, :, None] * self.scale + self.shift
        if categories is None:
            return tokens
        return torch.cat([tokens, self.embed(categories)], dim=1)


class First(nn.Module):
    """Returns the first token, the class token."""

    def forward(self, tokens):
        return tokens[:, 0]


class Net(nn.Module):
    """Tokens, two blocks and a head; all layers before the head can be mixed.

    Args:
        kind: ``"mlp"``, or ``"ft"`` for a transformer.
        levels: number of categories.
        data: a data set, for the number of columns.
        outputs: number of outputs.
    """

    def __init__(self, kind, levels, data, outputs):
        super().__init__()
        numbers, *categories, _ = data.tensors
        width = {"mlp": 8, "ft": 32}[kind]
        self.tokens = Tokens(numbers.shape[1], levels, width)
        if kind == "mlp":
            columns = 1 + numbers.shape[1] + sum(part.shape[1] for part in categories)
            first = nn.Sequential(nn.Flatten(), nn.Linear(columns * width, 256), nn.ReLU())
            self.blocks = nn.Sequential(first, nn.Sequential(nn.Linear(256, 256), nn.ReLU()))
            self.head = nn.Linear(256, outputs)
        else:
            self.blocks = nn.Sequential(transformer_block(width), transformer_block(width))
            self.head = nn.Sequential(First(), nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, numbers, categories=None):
        return self.head(self.blocks(self.tokens(numbers, categories)))


def transformer_block(width):
    """Return a transformer block: attention between the tokens, and a perceptron on each."""
    settings = {"activation": "gelu", "batch_first": True, "norm_first": True}
    return nn.TransformerEncoderLayer(width, 4, 2 * width, **settings)
