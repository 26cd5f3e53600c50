"""What was looked at is what trains: a layer that was wrapped or replaced since is refused."""

import contextlib

import pytest
import torch
from torch import Tensor, nn

from blocks import BATCH, X, built, step
from manifold_mixup import ManifoldMixup, MixPlan


class LowRank(nn.Module):
    """Wraps a layer like LoRA, and adds a parallel branch."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def around_the_layer(model: nn.Sequential) -> None:
    model[1].fc = LowRank(model[1].fc)


def around_its_parent(model: nn.Sequential) -> None:
    model[1] = LowRank(model[1])


def in_its_place(model: nn.Sequential) -> None:
    model[1].fc = nn.Linear(8, 8)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


@pytest.mark.parametrize("change", [around_the_layer, around_its_parent, in_its_place])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_layer_that_was_wrapped_since_is_refused(change, steps):
    model = built(Chain())
    mixup = ManifoldMixup(model, ["1.fc", "0"], seed=0)
    for _ in range(steps):
        step(model, mixup)
    change(model)
    refused = pytest.raises(RuntimeError, match=r"'1\.fc' is no longer.*Attach again with repl")
    plans = [MixPlan("1.fc", lam=torch.tensor(0.3), perm=torch.arange(BATCH).roll(-1))] * steps
    with mixup.using(plans[0]) if plans else contextlib.nullcontext(), refused:
        step(model, mixup)
    verdicts = {proof.layer: proof.verdict for proof in mixup.verify(X).layers}
    assert verdicts == {"0": "proven", "1.fc": "failed"}
    assert "Attach again" in str(mixup.verify(X))
    with pytest.raises(ValueError, match="not every layer is proven"):
        mixup.assert_verified(X)
    again = ManifoldMixup(model, ["0"], seed=0, replace=True)
    step(model, again)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_layer_that_is_compiled_later_is_still_the_same():
    model = built(Chain())
    mixup = ManifoldMixup(model, ["1", "1.fc"], seed=0)
    step(model, mixup)
    model[1] = torch.compile(model[1], backend="eager")
    for _ in range(4):
        step(model, mixup)
    mixup.assert_verified(X)


def test_a_reader_of_the_mask_that_was_wrapped_since_is_refused():
    class Pool(nn.Module):
        def forward(self, h: Tensor, mask: Tensor) -> Tensor:
            weights = mask.to(h.dtype)[..., None]
            return (weights * h).sum(1) / weights.sum(1)

    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, h: Tensor, mask: Tensor) -> Tensor:
            return self.inner(h, mask) + (h * mask[..., None]).sum(1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.pool, self.head = nn.Embedding(9, 8), Pool(), nn.Linear(8, 3)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.head(self.pool(self.embed(ids), mask))

    ids = torch.arange(12).view(4, 3) % 9
    mask = torch.arange(3) < torch.tensor([3, 1, 2, 3])[:, None]
    model = Net()
    mixup = ManifoldMixup(model, ["embed"], mask="mask", seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    criterion(model(ids, mask), torch.arange(4) % 3).backward()
    model.pool = Twice(model.pool)
    with pytest.raises(RuntimeError, match=r"'pool' is no longer"):
        model(ids, mask)
