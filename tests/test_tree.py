"""Nested values: every container keeps its type, and the original does not change."""

import pickle
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch

from manifold_mixup._tree import all_leaves, leaves, map_leaves

X, Y = torch.ones(2), torch.zeros(3)


class Pair(NamedTuple):
    one: Any
    other: Any


@dataclass
class Output:
    state: Any
    note: str = "note"


@dataclass(frozen=True)
class Frozen:
    state: Any
    note: str = "note"


@dataclass(frozen=True, slots=True)
class Slots:
    state: Any
    note: str = "note"


@dataclass
class Computed:
    """It cannot be rebuilt from its fields."""

    state: Any
    norm: Any = field(init=False)

    def __post_init__(self):
        self.norm = self.state.sum()


@dataclass
class ModelOutput(OrderedDict):
    """A dataclass that is also a dict, with its values in both, as in Transformers."""

    logits: Any = None
    hidden: Any = None

    def __post_init__(self):
        for name in ("logits", "hidden"):
            if getattr(self, name) is not None:
                super().__setitem__(name, getattr(self, name))

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)


class Store:
    """Holds tensors by name without being a mapping, as a batch of graphs of PyTorch Geometric."""

    def __init__(self, **items):
        self.items_ = items

    def keys(self):
        return list(reversed(self.items_))

    def __getitem__(self, key):
        return self.items_[key]

    def __setitem__(self, key, value):
        self.items_[key] = value

    def __iter__(self):
        return iter(self.items_.items())

    def __copy__(self):
        return Store(**self.items_)

    def to(self, device):
        return self


class Events(Store):
    """Iterates over itself in another way."""

    def __iter__(self):
        return iter([Events()])


CONTAINERS = {
    "tuple": (lambda: (X, 3, "s"), ["0"]),
    "list": (lambda: [X, [Y]], ["0", "1.0"]),
    "dict": (lambda: {"a": X, "b": None, 3: Y}, ["a", "3"]),
    "ordered dict": (lambda: OrderedDict(b=X, a=Y), ["b", "a"]),
    "default dict": (lambda: defaultdict(list, a=X), ["a"]),
    "user dict": (lambda: UserDict(a=X, n=1), ["a"]),
    "named tuple": (lambda: Pair(X, {"h": Y}), ["one", "other.h"]),
    "dataclass": (lambda: Output(X), ["state"]),
    "frozen": (lambda: Frozen((X, Y)), ["state.0", "state.1"]),
    "slots": (lambda: Slots(X), ["state"]),
    "computed": (lambda: Computed(X), ["state", "norm"]),
    "model output": (
        lambda: ModelOutput(logits=X, hidden=(Y, Y)),
        ["logits", "hidden.0", "hidden.1"],
    ),
    "store": (lambda: Store(x=X, n=1, pair=(Y, X)), ["x", "pair.0", "pair.1"]),
    "of torch": (lambda: torch.max(torch.ones(2, 2), 0), ["0", "1"]),
    "size": (lambda: (X, torch.Size([2])), ["0"]),
    "empty": (lambda: ([], {}, (), X), ["3"]),
}
EACH = pytest.mark.parametrize(("build", "paths"), CONTAINERS.values(), ids=CONTAINERS)


@EACH
def test_leaves_come_with_their_paths_in_order(build, paths):
    assert [path for path, _ in leaves(build())] == paths
    assert [path for path, _ in leaves(build(), "out")] == [f"out.{path}" for path in paths]


@EACH
def test_a_mapped_value_is_of_the_same_kind(build, paths):
    value = build()
    before = list(leaves(value))
    met = []

    def move(path, tensor):
        met.append(path)
        return tensor + 1

    mapped = map_leaves(move, value)
    assert type(mapped) is type(value)
    assert mapped is not value
    assert met == paths
    for (path, new), (old_path, old) in zip(leaves(mapped), before, strict=True):
        assert path == old_path
        assert torch.equal(new, old + 1)
    # the original is unchanged
    assert [(path, id(tensor)) for path, tensor in leaves(value)] == [
        (path, id(tensor)) for path, tensor in before
    ]
    others = [end for _, end in all_leaves(value) if not isinstance(end, torch.Tensor)]
    assert [end for _, end in all_leaves(mapped) if not isinstance(end, torch.Tensor)] == others


def test_what_is_both_a_mapping_and_a_dataclass_stays_consistent():
    mapped = map_leaves(lambda _, tensor: tensor + 1, ModelOutput(logits=X))
    assert mapped["logits"] is mapped.logits
    assert torch.equal(mapped.logits, X + 1)
    assert list(mapped) == ["logits"]


def test_the_output_of_transformers():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    value = outputs.BaseModelOutput(last_hidden_state=X, hidden_states=(X, Y))
    mapped = map_leaves(lambda _, tensor: tensor + 1, value)
    assert type(mapped) is outputs.BaseModelOutput
    assert mapped[0] is mapped.last_hidden_state is mapped["last_hidden_state"]
    assert torch.equal(mapped.hidden_states[1], Y + 1)
    assert value.last_hidden_state is X
    assert "attentions" not in mapped


def test_a_model_output_of_transformers_with_a_field_by_keyword_only():
    """As GLiNER's are; `copy.copy` fails on them."""
    outputs = pytest.importorskip("transformers.modeling_outputs")

    @dataclass
    class Spans(outputs.ModelOutput):
        logits: Any = None
        spans: Any = field(default=None, kw_only=True)

    value = Spans(logits=X, spans=Y)
    value["more"] = X
    mapped = map_leaves(lambda _, tensor: tensor + 1, value)
    assert type(mapped) is Spans
    assert dict(mapped).keys() == {"logits", "spans", "more"}
    for tensor in (mapped.logits, mapped["logits"], mapped["more"]):
        torch.testing.assert_close(tensor, X + 1)
    torch.testing.assert_close(mapped.spans, Y + 1)
    assert value.logits is X


def test_what_is_no_container_is_passed_on():
    for value in (
        "text",
        3,
        None,
        object(),
        Output,
        {1, 2},
        Events(x=X),
        Store,
    ):
        assert map_leaves(lambda *_: pytest.fail("no tensor here"), value) is value
        assert list(leaves(value)) == []
        assert list(all_leaves(value)) == [("", value)]


def test_graphs_that_cannot_be_iterated_over_are_passed_on():
    data = pytest.importorskip("torch_geometric.data")
    nested = data.HeteroData(paper={"x": X})
    for value, error in ((nested, NotImplementedError), (data.TemporalData(), AttributeError)):
        with pytest.raises(error):
            list(value)
        assert map_leaves(lambda *_: pytest.fail("no tensor here"), value) is value
        assert list(all_leaves(value)) == [("", value)]


def test_a_tensor_alone_has_no_path():
    assert [(path, tensor is X) for path, tensor in leaves(X)] == [("", True)]
    assert map_leaves(lambda path, tensor: (path, tensor), X) == ("", X)


def test_a_default_dict_keeps_its_default():
    mapped = map_leaves(lambda _, tensor: tensor + 1, defaultdict(list, a=X))
    assert mapped["new"] == []


class Shares(MutableMapping):
    """A mapping whose shallow copy shares its items."""

    def __init__(self, **items):
        self.items_ = items

    def __getitem__(self, key):
        return self.items_[key]

    def __setitem__(self, key, value):
        self.items_[key] = value

    def __delitem__(self, key):
        del self.items_[key]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


def test_a_batch_whose_copy_shares_its_items_is_refused_unchanged():
    batch = Shares(x=X, y=Y)
    with pytest.raises(TypeError, match=r"a Shares has no __copy__.*pass a dict"):
        map_leaves(lambda _, tensor: tensor + 1, batch)
    assert batch["x"] is X
    assert batch["y"] is Y
    assert map_leaves(lambda _, tensor: tensor + 1, Shares(n=1))["n"] == 1  # nothing to replace


BREAKS = ["default dict", "user dict", "computed", "store"]
if torch.__version__ < (2, 12):  # older compilers do not trace copy.copy
    BREAKS += ["dataclass", "frozen", "slots", "model output", "of torch"]


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in BREAKS])
def test_compiled_without_a_graph_break(name):
    torch.compiler.reset()
    build = CONTAINERS[name][0]
    value = build()

    def double(value):
        return map_leaves(lambda _, tensor: tensor * 2, value)

    mapped = torch.compile(double, backend="eager", fullgraph=True)(value)
    assert type(mapped) is type(value)
    for (_, new), (_, old) in zip(leaves(mapped), leaves(value), strict=True):
        assert torch.equal(new, 2 * old)


def test_mapped_values_can_be_pickled():
    mapped = map_leaves(lambda _, tensor: tensor + 1, {"a": (X, [Y])})
    assert torch.equal(pickle.loads(pickle.dumps(mapped))["a"][0], X + 1)
