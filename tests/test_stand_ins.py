"""The user's own layers run in no look, whatever leads to them: stand-ins run for them."""

import functools
import types
import weakref

import pytest
import torch
from torch import Tensor, nn

from looks import BATCH, FLOATS, PADDED, Pool
from manifold_mixup import ManifoldMixup, MixPlan, find_layers


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.bn(self.fc(h)).relu()


class WithMask(nn.Module):
    """Ids, a pooling that takes the mask, and a block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.embed, self.pool, self.block = nn.Embedding(9, 4), Pool(), block
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.block(self.pool(self.embed(x), mask)))


def by_closure(block: Block) -> None:
    block.forward = lambda h: Block.forward(block, h)


def by_compiling(block: Block) -> None:
    block.forward = torch.compile(block.forward, backend="eager")


def by_partial(block: Block) -> None:
    block.forward = functools.partial(Block.forward, block)


def by_weak_reference(block: Block) -> None:
    own, original = weakref.ref(block), type(block).forward
    block.forward = lambda h: original(own(), h)


def by_tensors(block: Block) -> None:
    weight, bias, bn = block.fc.weight, block.fc.bias, block.bn

    def forward(h: Tensor) -> Tensor:
        return h + bn(nn.functional.linear(h, weight, bias)).relu()

    block.forward = forward


def by_default_arguments(block: Block) -> None:
    fc, bn = block.fc, block.bn

    def forward(h: Tensor, given: tuple[Tensor, Tensor] = (fc.weight, fc.bias)) -> Tensor:
        return h + bn(nn.functional.linear(h, *given)).relu()

    block.forward = forward


def by_an_object(block: Block) -> None:
    holder = types.SimpleNamespace(parts={"own": [(block.fc.weight, block.fc.bias), block.bn]})

    def forward(h: Tensor) -> Tensor:
        given, bn = holder.parts["own"]
        return h + bn(nn.functional.linear(h, *given)).relu()

    block.forward = forward


REPLACED = [by_closure, by_compiling, by_weak_reference, by_tensors, by_an_object]
REPLACED += [
    pytest.param(one, marks=pytest.mark.thorough) for one in (by_partial, by_default_arguments)
]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("replace", REPLACED)
def test_replaced_forwards_run_on_stand_ins(replace):
    after = []
    for change in (lambda block: None, replace):
        torch.manual_seed(0)
        model = WithMask(Block())
        change(model.block)
        with ManifoldMixup(model, ["block", "block.bn"], check=False) as mixup:
            assert [p.verdict for p in mixup.verify(**PADDED).layers] == ["proven", "failed"]
        assert [row.name for row in find_layers(model, **PADDED).cuts] == ["pool", "block", "head"]
        assert [p for p in model.parameters() if p.grad is not None] == []
        assert model.block.bn.num_batches_tracked == 0
        mixup = ManifoldMixup(model, ["embed"], mask="mask", seed=0)
        loss = mixup.wrap(nn.CrossEntropyLoss())(model(**PADDED), torch.arange(BATCH) % 3)
        loss.backward()
        after.append([loss, *model.buffers(), *(p.grad for p in model.parameters())])
    for plain, replaced in zip(*after, strict=True):
        torch.testing.assert_close(replaced, plain)


class Compiling(nn.Module):
    """Compiles its own methods in its constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b, self.c = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), None
        self.steps = [torch.compile(self._first, backend="eager"), self._second]
        self.head = nn.Linear(4, 3)

    def _first(self, x: Tensor) -> Tensor:
        return self.bn(self.a(x)).relu()

    def _second(self, x: Tensor) -> Tensor:
        return self.b(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.head(x)


def test_methods_compiled_in_init_are_seen():
    model = Compiling()
    assert [row.name for row in find_layers(model, FLOATS)] == ["a", "bn", "b", "head"]
    mixup = ManifoldMixup(model, ["b"], seed=0)
    mixup.wrap(nn.CrossEntropyLoss())(model(FLOATS), torch.arange(BATCH) % 3).backward()
    mean = model.bn.running_mean.clone()
    mixup.assert_verified(FLOATS)
    assert model.bn.running_mean.equal(mean)
    plan = MixPlan("b", lam=torch.tensor(0.0), perm=torch.arange(BATCH).roll(-1))
    with mixup.paused():
        plain = model(FLOATS)
    with mixup.using(plan):
        torch.testing.assert_close(model(FLOATS), plain[plan.perm])


class OutOfReach(nn.Module):
    """Keeps its weight where it cannot be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.pool = nn.Embedding(9, 4), nn.Linear(4, 3), Pool()
        self.kept = types.MappingProxyType({"weight": self.head.weight})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.pool(self.fc(x), mask) @ self.kept["weight"].T


class Catching(OutOfReach):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        try:
            return super().forward(x, mask)
        except RuntimeError:
            return self.head(self.pool(self.fc(x), mask))


@pytest.mark.parametrize("kind", [OutOfReach, Catching])
def test_what_cannot_be_isolated_is_not_run_and_not_passed(kind):
    model = kind()
    mixup = ManifoldMixup(model, ["fc"], check=False)
    report = mixup.verify(**PADDED)
    assert not report.ok
    assert report.layers[0].verdict == "skipped"
    assert "reaches the model's own tensor 'head.weight'" in report.layers[0].reason
    with pytest.raises(ValueError, match=r"not every layer is proven"):
        mixup.assert_verified(**PADDED)
    assert all(parameter.grad is None for parameter in model.parameters())
    mixup = ManifoldMixup(model, ["fc"], mask="mask", replace=True)
    with pytest.raises(ValueError, match=r"could not be proven .*\n.*skipped .*\n.*check=False"):
        model(**PADDED)
    ManifoldMixup(model, ["fc"], mask="mask", check=False, replace=True)
    model(**PADDED).sum()


def test_a_constant_model_does_not_pass_the_proof_of_a_mask():
    class Constant(WithMask):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return super().forward(x * 0, mask | True)

    model = Constant(nn.Identity())
    ManifoldMixup(model, ["embed"], mask="mask")
    with pytest.raises(ValueError, match=r"could not be proven .*\n.*inconclusive"):
        model(**PADDED)


def test_the_error_of_a_model_that_does_not_run_is_its_own():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids, scale):
            h = self.embed(ids) * scale  # of other batch sizes if only one is taken for the batch
            raise KeyError(f"no kernel for {h.dtype}")

    ids, scale = torch.randint(9, (4, 2)), torch.rand(4, 2, 1)
    with pytest.raises(RuntimeError, match="KeyError: 'no kernel for torch"):
        find_layers(Failing(), ids, scale)
