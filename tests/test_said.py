"""What the arguments say of each example without a tensor stays with its row: lists and arrays."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup, MixPlan, find_layers

COUNT = 4
Y = torch.tensor([0, 2, 1, 2])
LAM, PERM = 0.25, torch.tensor([1, 2, 3, 0])
ALIKE, DIFFERENT = [6, 6, 6, 6], [6, 2, 3, 4]


class Scale(nn.Module):
    def forward(self, h, scale):
        return h * torch.as_tensor(scale)[:, None].to(h)


class Scaled(nn.Module):
    """A network whose states are multiplied by a number of each example."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.scale, self.head = nn.Linear(5, 8), Scale(), nn.Linear(8, 3)

    def forward(self, x, numbers):
        return self.head(self.scale(self.stem(x).tanh(), numbers))


class Averaged(Scaled):
    """Padded sequences, averaged up to the length of each."""

    def forward(self, x, numbers):
        h = self.stem(x).tanh()
        valid = torch.arange(h.shape[1])[None] < torch.as_tensor(numbers)[:, None]
        return self.head((h * valid[..., None]).sum(1) / valid.sum(1, keepdim=True))


class Chosen(Scaled):
    """A network with a head for each kind of example."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({"6": self.head, "other": nn.Linear(8, 3)})

    def forward(self, x, numbers):
        h = self.stem(x).tanh()
        kinds = [str(number) if number == 6 else "other" for number in numbers]
        output = h.new_zeros(len(h), 3)
        for kind in sorted(set(kinds)):
            rows = [row for row, other in enumerate(kinds) if other == kind]
            output[rows] = self.heads[kind](h[rows])
        return output


class Nested(Scaled):
    """A network whose batch is a dict."""

    def forward(self, batch):
        return super().forward(batch["x"], batch["numbers"])


class OfObject(Scaled):
    """A network to which an object says more."""

    def forward(self, x, numbers):
        return super().forward(x, numbers.values)


class Plain:
    def __init__(self, values):
        self.values = values


@dataclasses.dataclass
class Data:
    values: list[int]


def states(seed, *shape):
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(seed))


CASES = {
    "list": (Scaled, list),
    "tuple": (Scaled, tuple),
    "array": (Scaled, np.array),
    "lengths": (Averaged, list),
    "lengths in an array": (Averaged, np.array),
    "kinds": (Chosen, list),
    "object": (OfObject, Plain),
    "dataclass": (OfObject, Data),
}


@pytest.mark.parametrize("case", CASES)
def test_values_that_first_differ_later_are_refused_in_that_batch(case):
    make, of = CASES[case]
    model, shape = make(), (6, 5) if make is Averaged else (5,)
    with ManifoldMixup(model, ["stem"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for step in range(3):  # all alike: an example's is its partner's
            x = states(step, *shape)
            with mixup.using(MixPlan("stem", LAM, PERM)):
                loss = criterion(model(x, of(ALIKE)), Y)
            h = model.stem(x)
            with mixup.paused():
                stem = model.stem.register_forward_hook(
                    lambda *_, h=h: LAM * h + (1 - LAM) * h[PERM]
                )
                by_hand = model(x, of(ALIKE))
                stem.remove()
            ends = cross_entropy(by_hand, Y), cross_entropy(by_hand, Y[PERM])
            torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])
        before = mixup.state_dict()
        for _ in range(2):
            with pytest.raises(ValueError, match="depend on the order of the examples") as error:
                model(states(4, *shape), of(DIFFERENT))
            name = "numbers.values" if make is OfObject else "numbers"
            assert f"If forward reads '{name}', a value for each example" in str(error.value)
        assert mixup.state_dict() == before
        criterion(model(states(5, *shape), of(ALIKE)), Y).backward()


def test_of_a_batch_that_is_a_dict():
    model = Nested()
    with ManifoldMixup(model, ["stem"], seed=0):
        model({"x": states(0, 5), "numbers": ALIKE})
        with pytest.raises(ValueError, match=r"If forward reads 'batch\.numbers'"):
            model({"x": states(1, 5), "numbers": DIFFERENT})


def test_an_example_whose_values_are_alike_has_not_shown_it():
    model, x = Scaled(), states(0, 5)
    with ManifoldMixup(model, ["stem"], example=(x, ALIKE), seed=0):
        model(x, ALIKE)
        with pytest.raises(ValueError, match="If forward reads 'numbers'"):
            model(x, DIFFERENT)


def test_as_a_tensor_they_are_mixed_where_a_module_receives_them():
    model, x, numbers = Scaled(), states(0, 5), torch.tensor(DIFFERENT).float()
    with ManifoldMixup(model, ["stem"], example=(x, numbers), seed=0) as mixup:
        with mixup.using(MixPlan("stem", LAM, PERM)):
            loss = mixup.wrap(nn.CrossEntropyLoss())(model(x, numbers), Y)
        h = model.stem(x)
        h, numbers = (LAM * each + (1 - LAM) * each[PERM] for each in (h, numbers))
        by_hand = model.head(h.tanh() * numbers[:, None])
        ends = cross_entropy(by_hand, Y), cross_entropy(by_hand, Y[PERM])
        torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])


def test_names_that_forward_does_not_read_are_looked_at_once(monkeypatch):
    from manifold_mixup._checks import Checks

    class Named(Scaled):
        def forward(self, x, names, size=(5, 5, 5, 5)):
            return self.head(self.stem(x))

    looks, first_batch = [], Checks.first_batch
    monkeypatch.setattr(
        Checks, "first_batch", lambda *given: (looks.append(given), first_batch(*given))[1]
    )
    model = Named()
    with ManifoldMixup(model, ["stem"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for names in (["a"] * 4, ["a"] * 4, list("abcd"), list("aabb"), ["a"] * 4, list("xyza")):
            criterion(model(states(0, 5), names), Y).backward()
    assert len(looks) == 2
    with ManifoldMixup(model, ["stem"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for names in (list("abcd"), list("aabb"), list("xyza")):
            criterion(model(states(0, 5), names), Y).backward()
    assert len(looks) == 3


def test_rows_made_by_such_a_list_are_explained():
    class Stacked(Scaled):
        def forward(self, x, numbers):
            h = self.stem(x)
            return self.head(torch.stack([row * n for row, n in zip(h, numbers, strict=False)]))

    table = find_layers(Stacked(), states(0, 5), DIFFERENT)
    assert "If forward reads 'numbers', a value for each example" in table[1].reason


def test_without_a_check_nothing_is_looked_at():
    model = Scaled()
    with ManifoldMixup(model, ["stem"], check=False, seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for numbers in (ALIKE, DIFFERENT):
            criterion(model(states(0, 5), numbers), Y).backward()


def test_what_an_object_keeps_for_itself_is_not_named():
    class Kept(Scaled):
        def forward(self, x, numbers):
            return super().forward(x, numbers._values)

    private = Plain(None)
    private._values = DIFFERENT
    reason = find_layers(Kept(), states(0, 5), private)[1].reason
    assert "depend on the order of the examples" in reason
    assert "If forward reads" not in reason


class Keeps(Scaled):
    """Is told the numbers of the batch beforehand."""

    def __init__(self):
        super().__init__()
        self.numbers, self.told = None, {}
        self.register_buffer("buffer", torch.ones(COUNT))

    def tell(self, how, numbers):
        if how == "dict":
            self.told["numbers"] = numbers
        elif how == "buffer":
            self.buffer = torch.tensor(numbers).float()
        else:
            self.numbers = {"list": list, "array": np.array, "tensor": torch.tensor}[how](numbers)

    def forward(self, x):
        kept = [one for one in (self.numbers, self.told.get("numbers")) if one is not None]
        return super().forward(x, kept[0] if kept else self.buffer)


@pytest.mark.parametrize("how", ["list", "array", "tensor", "dict", "buffer"])
def test_what_the_model_keeps_of_each_example_is_refused_when_it_first_differs(how):
    model = Keeps()
    with ManifoldMixup(model, ["stem"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for step in range(3):
            model.tell(how, ALIKE)
            criterion(model(states(step, 5)), Y).backward()
        model.tell(how, DIFFERENT)
        for _ in range(2):
            with pytest.raises(
                ValueError, match=r"order of the examples|does not prove every layer"
            ):
                model(states(4, 5))
        model.tell(how, [5, 5, 5, 5])
        criterion(model(states(5, 5)), Y).backward()


def test_a_layer_after_what_is_kept_stays_right():
    model = Keeps()
    with ManifoldMixup(model, ["head"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for numbers in (ALIKE, DIFFERENT, ALIKE, DIFFERENT):
            model.tell("buffer", numbers)
            x = states(0, 5)
            with mixup.using(MixPlan("head", LAM, PERM)):
                loss = criterion(model(x), Y)
            with mixup.paused():
                output = model(x)
            output = LAM * output + (1 - LAM) * output[PERM]
            ends = cross_entropy(output, Y), cross_entropy(output, Y[PERM])
            torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])
