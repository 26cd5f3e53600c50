"""A model put together by a function, and what its table of layers says."""

import pytest
from torch import nn

from manifold_mixup import find_layers
from manifold_mixup._find import check_layers
from manifold_mixup._structure.row import LayerRow


def rows_of(model: nn.Module, *args: object, **kwargs: object) -> dict[str, LayerRow]:
    return {row.name: row for row in find_layers(model, *args, **kwargs)}


def cuts_of(model: nn.Module, *args: object, **kwargs: object) -> set[str]:
    return {name for name, row in rows_of(model, *args, **kwargs).items() if row.cut}


def refused(table: object, *names: str) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        check_layers(table, names)
    return str(caught.value)


class Net(nn.Module):
    """Three linear layers, combined by a function."""

    def __init__(self, forward: object, **modules: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = forward

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.function(self, *args, **kwargs)
