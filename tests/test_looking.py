"""A dry run leaves no trace in a model, whatever it holds or writes."""

import collections
import functools
import random
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from looks import BATCH, FLOATS, PADDED, Pool
from manifold_mixup import ManifoldMixup, MixPlan, find_layers

TABLES: dict[int, Tensor] = {}
COLLECTED: list[Tensor] = []
TIMES = 0


@functools.lru_cache(maxsize=8)
def memoized(count: int) -> Tensor:
    return torch.arange(float(count))


def from_file(count: int) -> Tensor:
    global TIMES
    TIMES += 1
    if count not in TABLES:
        TABLES[count] = torch.arange(float(count)).cos()
    return TABLES[count]


class Store:
    """A plain object in a module."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Tensor]] = {"sin": []}
        self.last: tuple[Tensor, ...] = ()


class Slotted:
    __slots__ = ("count", "later", "table")

    def __init__(self) -> None:
        self.count, self.table = 0, None


class Keeper(nn.Module):
    """Writes to every place that a forward pass can write to."""

    of_class: dict[str, Tensor] = {}  # noqa: RUF012
    times = 0

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.calls, self.flag = 0, None
        self.seen, self.kinds, self.recent = [], set(), collections.deque(maxlen=3)
        self.store, self.slotted = Store(), Slotted()
        self.counts = np.zeros(3)
        self.dice, self.numpy_dice = random.Random(0), np.random.default_rng(0)
        self.torch_dice, self.old_dice = torch.Generator(), np.random.RandomState(0)
        self.register_buffer("average", torch.zeros(4))
        self.plain = torch.zeros(4)
        self.by_default = lambda x, kept=[]: kept.append(x) or len(kept)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(self.fc(x)) + memoized(4).to(x) + from_file(4).to(x)
        self._write(h)
        chance = self.dice.random() + self.numpy_dice.random() + self.old_dice.rand()
        noise = torch.rand((), generator=self.torch_dice)
        return h * (1 + chance + noise + self.plain.to(h))

    def _write(self, h: Tensor) -> None:
        type(self).of_class.setdefault("table", h.detach().cos())
        type(self).times += 1
        self.calls += 1
        self.flag = h
        self.seen.append(h.detach())
        self.kinds.add(str(h.dtype))
        self.recent.append(h.shape)
        self.store.tables["sin"].append(h.detach().sin())
        self.store.last = (h, h.detach())
        self.slotted.count += 1
        self.slotted.table = self.slotted.later = h.detach()
        self.counts += 1
        with torch.no_grad():
            self.average.mul_(0.9).add_(h.mean(0).to(self.average))
            self.plain.add_(1)
        if "late" not in self._buffers:
            self.register_buffer("late", h.detach().mean(0))
        self.by_default(h)
        torch.rand(()), random.random(), np.random.rand()  # noqa: NPY002


class Net(nn.Module):
    """Takes ids with a mask, or floats; a stem and a block that writes; the block has hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stem, self.keeper = nn.Embedding(9, 4), nn.Linear(4, 4), Keeper()
        self.pool, self.head = Pool(), nn.Linear(4, 3)
        self.collected: list[Tensor] = []  # not part of the model: hooks have it in closures
        self.keeper.register_forward_hook(collecting(self.collected))
        self.keeper.register_forward_pre_hook(lambda module, args: COLLECTED.append(args[0]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return self.head(self.keeper(self.stem(x)))
        return self.head(self.keeper(self.pool(self.stem(self.embed(x)), mask)))


def collecting(kept: list[Tensor]):
    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        kept.append(output)

    return hook


def make(*, run_before: bool) -> Net:
    """Return the same model each time, with the initial global state."""
    global TIMES
    TABLES.clear(), COLLECTED.clear(), memoized.cache_clear(), Keeper.of_class.clear()
    TIMES, Keeper.times = 0, 0
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    model = Net()
    model.keeper.bn.eval()
    if run_before:
        model(**PADDED)
        model(FLOATS).sum().backward()
    return model


def written(model: Net) -> dict[str, object]:
    """Return copies of everything that a forward pass may write."""
    keeper = model.keeper
    held = {
        **{f"dict of {name}": dict(vars(module)) for name, module in model.named_modules()},
        "store": [keeper.store.tables, keeper.store.last],
        "slotted": [keeper.slotted.count, keeper.slotted.table, hasattr(keeper.slotted, "later")],
        "class": [Keeper.of_class, Keeper.times],
        "file": [TABLES, TIMES, COLLECTED],
        "memoized": memoized.cache_info().currsize,
        "counts": keeper.counts.tolist(),
        "default": keeper.by_default.__defaults__,
        "grads": [parameter.grad for parameter in model.parameters()],
        "chance": [
            keeper.dice.getstate(),
            keeper.numpy_dice.bit_generator.state,
            keeper.torch_dice.get_state(),
            keeper.old_dice.get_state()[1].tolist(),
            torch.get_rng_state(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
        ],
    }
    return {name: copied(value) for name, value in held.items()}


def copied(value: object) -> object:
    """Copy containers and tensors; keep everything else."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple | collections.deque):
        return [copied(item) for item in value]
    if isinstance(value, set):
        return set(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def assert_same(a: object, b: object, path: str = "", *, twins: bool = False) -> None:
    """Compare results of `written`: tensors by value, others by identity unless of two models."""
    if isinstance(a, Tensor):
        assert type(a) is type(b), path
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    elif isinstance(a, dict) and not (twins and "hooks" in path):  # these have their own ids
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}", twins=twins)
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for place, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{path}/{place}", twins=twins)
    elif isinstance(a, int | float | str | set):
        assert a == b, path
    else:
        assert twins or a is b, path


def storages(model: Net) -> list[tuple[int, int]]:
    tensors = [*model.parameters(), *model.buffers(), model.keeper.plain]
    return [(id(tensor), tensor.data_ptr()) for tensor in tensors]


LAYERS = ["stem", "keeper"]


def attach_and_remove(model: Net, **options: object) -> None:
    ManifoldMixup(model, **options).remove()


def verify_and_remove(model: Net) -> None:
    with ManifoldMixup(model, LAYERS, check=False) as mixup:
        assert mixup.verify(FLOATS).ok


LOOKS = {
    "find_layers": lambda model: find_layers(model, FLOATS),
    "ids": lambda model: find_layers(model, **PADDED),
    "example": lambda model: attach_and_remove(model, layers=LAYERS, example=FLOATS),
    "proof": lambda model: attach_and_remove(
        model, layers=["embed", "pool"], example=PADDED, mask="mask"
    ),
    "verify": verify_and_remove,
}


@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize("look", LOOKS)
def test_a_look_leaves_everything_as_it_was(look, run_before):
    model = make(run_before=run_before)
    before, at = written(model), storages(model)
    LOOKS[look](model)
    assert_same(before, written(model))
    assert at == storages(model)
    model(**PADDED)  # no cache has a fake tensor
    model(FLOATS).sum().backward()


@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize(
    ("layers", "mask"), [(LAYERS, None), (["embed", "pool"], "mask")], ids=["look", "proof"]
)
def test_a_first_batch_is_the_same_with_the_look_as_without(layers, mask, run_before):
    batch = {"x": FLOATS} if mask is None else PADDED
    after = []
    for check in (False, True):
        model = make(run_before=run_before)
        at = storages(model)
        with ManifoldMixup(model, layers, mask=mask, check=check, seed=0) as mixup:
            if not check and mask is not None:  # the readers of the mask must be known
                mixup._checks._record(find_layers(model, **batch).with_mask(mask), mixup.layers)
                mixup._attachment.register_readers()
                mixup._attachment.padding.known = True
            # A hook of another on the second layer is given its state mixed after a look, which
            # moves ours in front of it.
            with mixup.using(MixPlan(layers[0], 0.3, torch.arange(BATCH).roll(1))):
                output = model(**batch)
            mixup.target(torch.zeros(BATCH), output)
            output.sum().backward()
        assert at == [pair for pair in storages(model) if pair in at]
        after.append((written(model), output.detach()))
    assert torch.equal(after[0][1], after[1][1])
    assert_same(after[0][0], after[1][0], twins=True)


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


class CountingCalls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


def seen_by_modes(run) -> list[object]:
    """Return what global modes and hooks observe of ``run``."""
    modules = []
    handles = [
        nn.modules.module.register_module_forward_hook(lambda m, *_: modules.append(type(m))),
        nn.modules.module.register_module_forward_pre_hook(lambda m, *_: modules.append(type(m))),
    ]
    try:
        with FlopCounterMode(display=False) as flops, Counting() as low, CountingCalls() as high:
            low.seen = high.seen = 0
            run()
            counts = low.seen, high.seen
        return [flops.get_total_flops(), *counts, modules]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("look", LOOKS)
def test_no_mode_and_no_hook_on_all_modules_sees_a_look(look):
    model = make(run_before=True)
    flops, operators, _, modules = seen_by_modes(lambda: LOOKS[look](model))
    assert (flops, operators, modules) == (0, 0, [])


@pytest.mark.parametrize("mask", [None, "mask"])
def test_no_mode_sees_more_of_a_first_batch_than_of_another(mask):
    batch, layers = (PADDED, ["embed"]) if mask else ({"x": FLOATS}, ["stem"])
    model = make(run_before=True)
    ManifoldMixup(model, layers, mask=mask, alpha=lambda step: None, seed=0)
    first, second = (seen_by_modes(lambda: model(**batch)) for _ in range(2))
    assert first[0] == second[0] > 0
    assert first[1] == second[1] > 0
    assert first[3] == second[3] != []


def test_where_tensors_are_made_is_known_in_a_look():
    class Where(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if torch.zeros(1).device.type != "meta":
                raise RuntimeError("not where the user said")
            return super().forward(x)

    model = nn.Sequential(Where(4, 4), nn.Linear(4, 3))
    with torch.device("meta"):
        assert [row.name for row in find_layers(model, FLOATS)] == ["0", "1"]
    assert torch.zeros(1).device.type == "cpu"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("look", LOOKS)
def test_an_exception_inside_a_look_puts_everything_back(look, error):
    model = make(run_before=True)
    raising = model.head.register_forward_hook(functools.partial(throw, error))
    before, at = written(model), storages(model)
    if error is Interrupted and look == "verify":
        with ManifoldMixup(model, LAYERS, check=False) as mixup:
            report = mixup.verify(FLOATS)
        assert not report.ok
        assert {proof.verdict for proof in report.layers} == {"skipped"}
        assert "Interrupted" in str(report)
    else:
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            LOOKS[look](model)
    assert_same(before, written(model))
    assert at == storages(model)
    raising.remove()
    model(FLOATS).sum().backward()


def throw(error: type[BaseException], *_: object) -> None:
    raise error


# Proxies, and objects that raise


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * getattr(self, "scale", 1)


class Hiding:
    @property
    def __dict__(self) -> dict[str, object]:
        raise KeyError("nobody may see")


def proxied(child: Child, parent: nn.Module) -> None:
    object.__setattr__(child, "parent", weakref.proxy(parent))
    child.parents = [weakref.proxy(parent)]


def proxied_without_a_referent(child: Child, parent: nn.Module) -> None:
    other = nn.Linear(1, 1)
    child.all_gone = [(weakref.proxy(other),)]
    child.__dict__["gone"] = weakref.proxy(other)
    child.__dict__["table"] = {0: weakref.proxy(Store())}


def proxied_tensor(child: Child, parent: nn.Module) -> None:
    child.kept = torch.ones(4)
    child.__dict__["scale"] = weakref.proxy(child.kept)


def hiding(child: Child, parent: nn.Module) -> None:
    child.hiding = Hiding()


@pytest.mark.parametrize("give", [proxied, proxied_without_a_referent, proxied_tensor, hiding])
def test_a_model_may_hold_what_answers_for_another_or_raises(give):
    model = nn.Sequential(Child(), nn.Linear(4, 3))
    give(model[0], model)
    before = dict(vars(model[0]))
    assert [row.name for row in find_layers(model, FLOATS).cuts] == ["0.fc", "0", "1"]
    mixup = ManifoldMixup(model, ["0"], example=FLOATS, seed=0)
    if give is not proxied_tensor:
        mixup.assert_verified(FLOATS)
    mixup.wrap(nn.CrossEntropyLoss())(model(FLOATS), torch.arange(BATCH) % 3).backward()
    assert all(vars(model[0])[name] is value for name, value in before.items() if "_" not in name)


def test_what_a_weak_proxy_leads_to_is_put_back():
    store = Store()

    class Writes(Child):
        def forward(self, x: Tensor) -> Tensor:
            self.kept.last = (*self.kept.last, x)
            return super().forward(x)

    model = nn.Sequential(Writes(), nn.Linear(4, 3))
    model[0].kept = weakref.proxy(store)
    find_layers(model, FLOATS)
    assert store.last == ()


def test_modules_that_equal_each_other_are_all_looked_at():
    class Same(nn.BatchNorm1d):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Same)

        __hash__ = None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
            object.__setattr__(self, "aside", [Same(4), Same(4)])

        def forward(self, x: Tensor) -> Tensor:
            for norm in self.aside:
                x = norm(x)
            return self.b(self.a(x))

    model = Net()
    find_layers(model, FLOATS)
    assert [int(norm.num_batches_tracked) for norm in model.aside] == [0, 0]
