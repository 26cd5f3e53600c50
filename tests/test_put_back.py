"""State outside of the model: a look puts it back, whoever holds it."""

import array
import collections
import contextvars
import ctypes
import functools
import itertools
import multiprocessing
import sys
import threading
import types
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from looks import FLOATS, Net
from manifold_mixup import ManifoldMixup, find_layers
from manifold_mixup._dry_run import reach as _reach
from manifold_mixup._dry_run import snapshot as _snapshot
from manifold_mixup._dry_run import states as _states

# Where forward stores things


class Cache:
    scale = None
    calls = 0

    @classmethod
    def get(cls) -> Tensor:
        if cls.scale is None:
            cls.scale = torch.ones(4)
        return cls.scale


class Registry(type):
    known = {}  # noqa: RUF012


class Registered(metaclass=Registry):
    class Inner:
        seen = None


class Kind:
    count = 0


class Slots:
    __slots__ = ("__last", "__weakref__", "count")

    def __init__(self) -> None:
        self.count, self.__last = 0, None

    def write(self, h: Tensor) -> None:
        self.count, self.__last = self.count + 1, h

    def read(self) -> list[object]:
        return [self.count, self.__last]


class Helper:
    """Has objects with their own state, and counters."""

    def __init__(self, model: nn.Module) -> None:
        self.optimizer = torch.optim.SGD(model.parameters(), 0.1)
        self.data = torch.utils.data.TensorDataset(FLOATS)
        self.steps, self.last = 0, {}


mystate = types.ModuleType("mystate")
mystate.step, mystate.more = 0, types.ModuleType("mystate.more")
sys.modules["mystate"] = mystate
LOCAL, VARIABLE = threading.local(), contextvars.ContextVar("VARIABLE")
USER, CHAIN = collections.UserDict(), collections.ChainMap({}, {})
WEAK, LISTED = weakref.WeakKeyDictionary(), collections.UserList()
HISTORY, TABLE = [], {}
log, note = HISTORY.append, TABLE.__setitem__


def in_a_class(m, h):
    Cache.calls += 1
    if Cache.scale is None:
        Cache.scale = torch.ones(4)
    return h * Cache.scale


def by_a_classmethod(m, h):
    return h * Cache.get()


def by_a_closure():
    kind = Cache

    def keep(m, h):
        kind.calls += 1
        kind.last = h
        return h

    return keep


def in_an_attribute_that_is_a_class(m, h):
    m.kind.count += 1
    m.kind.last = h
    return h


def in_a_metaclass(m, h):
    Registered.known["last"] = h
    Registered.Inner.seen = h
    return h


def in_a_file(m, h):
    mystate.step += 1
    if not hasattr(mystate, "cache"):
        mystate.cache = torch.ones(4)
    mystate.more.last = h
    return h * mystate.cache


def in_a_file_that_it_imports(m, h):
    import mystate as state

    state.step += 1
    state.cache = h
    return h


def in_globals(m, h):
    globals()["KEPT"] = h
    return h


def in_a_file_by_name(m, h):
    setattr(mystate, "kept" + "late", h)
    return h


def in_a_thread(m, h):
    LOCAL.last = h
    return h


def in_a_context(m, h):
    VARIABLE.set(h)
    return h


def in_containers(m, h):
    USER["h"] = CHAIN["h"] = WEAK[m.a] = h
    LISTED.append(h)
    return h


def by_bound_methods(m, h):
    log(h), note("h", h), m.log(h)
    return h


def in_slots(m, h):
    m.slots.write(h)
    return h


def in_a_helper(m, h):
    m.helper.steps += 1
    m.helper.last["h"] = h
    return h


def in_bytes(m, h):
    m.bytes.append(1), m.numbers.append(2)
    m.shared.value += 1
    m.words[:] = [9, 9]
    m.objects[0] = h
    return h


def in_iterators(m, h):
    next(m.count), next(m.items), next(m.keys), next(COUNT)
    return h


COUNT = itertools.count(3, 2)
KEEPS = [in_a_class, by_a_classmethod, by_a_closure(), in_an_attribute_that_is_a_class]
KEEPS += [in_a_metaclass, in_a_file, in_a_file_that_it_imports, in_a_file_by_name, in_globals]
KEEPS += [in_a_thread, in_a_context, in_containers, by_bound_methods, in_slots, in_a_helper]
KEEPS += [in_bytes, in_iterators]


def model_with(keep) -> Net:
    model = Net(keep)
    model.kind, model.slots, model.helper = Kind, Slots(), Helper(model)
    model.history = []
    model.log = model.history.append
    del model.history
    model.bytes, model.numbers = bytearray(b"ab"), array.array("i", [1])
    model.shared, model.words = multiprocessing.Value("i", 7), multiprocessing.Array("i", [1, 2])
    model.objects = np.array([None, "b"], dtype=object)
    model.count, model.items, model.keys = itertools.count(5), iter([1, 2]), iter({"k": 1})
    return model


def state_of(model: Net) -> list[object]:
    variables = [VARIABLE.get(None), vars(LOCAL), dict(USER), dict(CHAIN), dict(WEAK), list(LISTED)]
    classes = [vars(kind) for kind in (Cache, Kind, Registry, Registered, Registered.Inner)]
    files = [vars(mystate), vars(mystate.more), globals().get("KEPT")]
    lists = [HISTORY, TABLE, model.log.__self__, model.slots.read(), vars(model.helper)]
    data = [model.bytes, model.numbers, model.shared.value, model.words[:], model.objects.tolist()]
    places = [repr(model.count), repr(COUNT), model.items.__reduce__(), model.keys.__reduce__()]
    return [copied(held) for held in (variables, classes, files, lists, data, places)]


def copied(value: object) -> object:
    if isinstance(value, dict | types.MappingProxyType):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return bytes(value) if isinstance(value, bytearray | array.array) else value


@pytest.mark.parametrize("keep", KEEPS, ids=lambda keep: keep.__qualname__)
def test_state_that_is_not_the_models_own_is_put_back(keep):
    model = model_with(keep)
    before = state_of(model)
    find_layers(model, FLOATS)
    assert state_of(model) == before
    ManifoldMixup(model, ["b"], example=FLOATS).assert_verified(FLOATS)
    assert state_of(model) == before


def test_a_file_that_a_look_has_imported_stays_imported(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package/__init__.py").write_text("flag = 0\n")
    (tmp_path / "own_package/part.py").write_text("def twice(h):\n    return 2 * h\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_package

    def keep(m, h):
        import own_package.part

        own_package.flag += 1
        own_package.late = h
        return own_package.part.twice(h)

    find_layers(Net(keep), FLOATS)
    assert own_package.part.twice(1) == 2
    assert own_package.flag == 0
    assert not hasattr(own_package, "late")


def test_pointers_of_ctypes_are_left_alone():
    model = Net(lambda m, h: h)
    model.pointers = [ctypes.py_object([]), (ctypes.c_char_p * 2)(b"a", b"b"), ctypes.c_int(3)]
    find_layers(model, FLOATS)
    assert [_states._read_memory(held) is None for held in model.pointers] == [True, True, False]


def test_training_goes_on_with_real_numbers():
    model = model_with(in_a_class)
    weight = model.a.weight.detach().clone()
    mixup = ManifoldMixup(model, ["b"], seed=0)
    loss = mixup.wrap(nn.CrossEntropyLoss())(model(FLOATS), torch.arange(6) % 3)
    loss.backward()
    torch.optim.SGD(model.parameters(), 1.0).step()
    assert type(Cache.scale) is Tensor
    assert loss.item() > 0
    assert not torch.equal(weight, model.a.weight)
    Cache.scale, Cache.calls = None, 0


# Memoized functions


@functools.cache
def counter(name: str) -> collections.Counter:
    return collections.Counter()


@functools.lru_cache(maxsize=4)
def forgetful(name: str) -> collections.Counter:
    return collections.Counter()


@functools.lru_cache
def ones(count: int) -> Tensor:
    return torch.ones(count)


def memoizing(m, h):
    for memo in (counter, forgetful):
        memo("a")["x"] += 1
        memo("b")["y"] = h
    return h * ones(4)


@pytest.mark.parametrize("before", [False, True])
def test_a_cache_keeps_what_it_had_and_nothing_of_a_look(before):
    for memo in (counter, forgetful, ones):
        memo.cache_clear()
    held = ones(2)
    if before:
        counter("a")["x"], forgetful("a")["x"] = 5, 6
    else:
        ones.cache_clear()
    model = Net(memoizing)
    find_layers(model, FLOATS)
    ManifoldMixup(model, ["b"], example=FLOATS).assert_verified(FLOATS)
    sizes = [memo.cache_info().currsize for memo in (counter, forgetful, ones)]
    assert sizes == [before] * 3
    if before:
        assert (counter("a"), forgetful("a")) == ({"x": 5}, {"x": 6})
        assert ones(2) is held
    assert not counter("b")
    for name in "bcdefga":  # the order of use is restored
        forgetful(name)[name] = 1
    assert forgetful.cache_info().currsize == 4
    assert type(model(FLOATS)) is Tensor


@functools.lru_cache(maxsize=2)
def rows(count: int) -> Tensor:
    return torch.ones(count, 1)


def test_a_full_cache_does_not_return_what_it_computed_in_a_look():
    rows.cache_clear()
    model = Net(lambda m, h: h + rows(len(h)))
    rows(7)
    unmixed = model(FLOATS)
    find_layers(model, FLOATS)  # with other batch sizes, so that both results are dropped
    with ManifoldMixup(model, ["b"], example=FLOATS) as mixup:
        mixup.assert_verified(FLOATS)
    assert torch.equal(rows(7), torch.ones(7, 1))
    assert torch.equal(model(FLOATS), unmixed)


# Limits and costs


def test_more_than_can_be_put_back_is_an_error(monkeypatch):
    monkeypatch.setattr(_reach, "_ENOUGH", 1000)
    model = Net(lambda m, h: h)
    find_layers(model, FLOATS)
    model.samples = [{} for _ in range(1000)]
    with pytest.raises(RuntimeError, match=r"more than 1000 \(\d+ of type dict"):
        find_layers(model, FLOATS)


def test_what_holds_no_tensor_is_not_searched_at_every_turn(monkeypatch):
    seen = []
    exchanged = _snapshot._with_stand_ins
    monkeypatch.setattr(
        _snapshot,
        "_with_stand_ins",
        lambda value, *more: seen.append(value) or exchanged(value, *more),
    )
    model = Net(lambda m, h: h)
    model.words = {f"word {place}": place for place in range(500)}
    model.rows = [{"row": place} for place in range(500)]
    find_layers(model, FLOATS)
    assert seen
    assert not {str(value) for value in seen} & {"word 1", "row"}


class Copied(np.ndarray):
    copies = 0

    def copy(self, order: str = "C") -> np.ndarray:
        Copied.copies += 1
        return np.asarray(self).copy()


def test_an_array_is_copied_once_a_look_and_never_if_nobody_can_write_it():
    model = Net(lambda m, h: h)
    model.table = np.arange(6.0).view(Copied)
    find_layers(model, FLOATS)
    first, Copied.copies = Copied.copies, 0
    base = np.arange(6.0)
    base.flags.writeable = False
    model.table = base.view(Copied)
    find_layers(model, FLOATS)
    assert (first, Copied.copies) == (1, 0)


def test_a_view_that_cannot_be_written_changes_with_its_base():
    base = np.zeros(4)

    def keep(m, h):
        base[:] += 1
        return h

    model = Net(keep)
    model.view = base.view()
    model.view.flags.writeable = False
    assert _states.access_in_numpy(np, model.view) is not None
    assert _states.access_in_numpy(np, np.frombuffer(b"abcd", dtype=np.uint8)) is None
    find_layers(model, FLOATS)
    assert base.tolist() == [0.0] * 4


INSTALLED = """
import functools, torch
from torch import nn

def memoized(function):
    known = functools.lru_cache(maxsize=10)(function)
    def look_up(*args):
        return known(*args)
    look_up.known = known
    return look_up

class Bias(nn.Module):
    @staticmethod
    @memoized
    def index(size):
        return torch.arange(size)

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x + self.table[self.index(4)].sum(0)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Sequential(nn.Sequential(Bias())))
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        assert not isinstance(self.last, Bias)
        return self.last(self.first(x))
"""


def test_what_a_class_of_a_library_memoizes_though_code_names_it_first(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"  # a class in a global of a library is not searched whole
    folder.mkdir()
    (folder / "installed_models.py").write_text(INSTALLED)
    monkeypatch.syspath_prepend(folder)
    import installed_models

    model = installed_models.Model()
    assert "first" in {row.name for row in find_layers(model, FLOATS).cuts}
    assert installed_models.Bias.index.known.cache_info().currsize == 0


IMPORTED = """
import torch

SCALE = torch.tensor(2.0)

def scaled(x, by=torch.ones(())):
    return x * by * SCALE
"""


def importing(m, h):
    import imported_late

    return imported_late.scaled(h)


def test_what_forward_imports_is_real(tmp_path, monkeypatch):
    """As PEFT is, which some models of Transformers import in forward."""
    (tmp_path / "imported_late.py").write_text(IMPORTED)
    monkeypatch.syspath_prepend(tmp_path)
    finders, model = list(sys.meta_path), Net(importing)
    ManifoldMixup(model, ["b"], example=FLOATS)
    late = sys.modules.pop("imported_late")
    assert type(late.SCALE) is Tensor
    assert late.scaled(torch.ones(2)).tolist() == [2, 2]
    assert (
        type(late.__loader__).__name__ == type(late.__spec__.loader).__name__ == "SourceFileLoader"
    )
    assert sys.meta_path == finders


class Hidden(Slots):
    """Computes what its base keeps in a slot, as constants of mpmath do."""

    __slots__ = ()

    @property
    def count(self) -> list[int]:  # type: ignore[override]
        return [7]  # a new one each time

    def __init__(self) -> None:
        pass


def test_a_slot_that_a_subclass_hides_is_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model.hidden = Hidden()
    assert [row.name for row in find_layers(model, torch.randn(4, 3)) if row.cut] == ["0", "1"]
