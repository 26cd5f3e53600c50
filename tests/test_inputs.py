"""The model's inputs: their names, the batch, and the meaning of "input"."""

import warnings

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, find_layers
from manifold_mixup._inputs import leading, leading_names, map_inputs, mixed_input, named_inputs
from zoo import BATCH, CLASSES, TARGET, build, example

IMAGE, VECTOR = torch.zeros(4, 3, 2, 2), torch.zeros(4, 5)
TOKENS, MASK = torch.zeros(4, 7, dtype=torch.long), torch.ones(4, 7, dtype=torch.bool)
WAVE = torch.zeros(4, 8, dtype=torch.complex64)


class Model(nn.Module):
    def forward(self, image, vector=None, *rest, mode="fast", **options):
        pass


class Fixed(nn.Module):
    def forward(self, x, *, mask):
        pass


class Batch(nn.Module):
    def forward(self, batch):
        pass


def names(model, *args, **kwargs):
    return [name for name, _ in named_inputs(model, args, kwargs)]


# Names


def test_positional_and_keyword_arguments_have_the_names_of_forward():
    assert names(Model(), IMAGE) == ["image"]
    assert names(Model(), IMAGE, VECTOR) == ["image", "vector"]
    assert names(Model(), vector=VECTOR, image=IMAGE) == ["vector", "image"]
    assert names(Model(), IMAGE, VECTOR, TOKENS, MASK) == ["image", "vector", "rest.0", "rest.1"]
    assert names(Model(), IMAGE, extra=MASK, mode="slow") == ["image", "extra"]
    assert names(Fixed(), IMAGE, mask=MASK) == ["x", "mask"]


def test_nested_arguments_have_dotted_names():
    assert names(Batch(), {"pixels": IMAGE, "text": (TOKENS, MASK), "id": "a"}) == [
        "batch.pixels",
        "batch.text.0",
        "batch.text.1",
    ]
    assert names(Batch(), batch=[IMAGE, VECTOR]) == ["batch.0", "batch.1"]


def test_too_many_arguments_are_left_to_forward_to_complain_of():
    assert names(Batch(), IMAGE, VECTOR, TOKENS) == ["batch", "1", "2"]
    assert names(Fixed(), IMAGE, MASK) == ["x", "mask"]


def test_none_and_other_values_are_no_inputs():
    assert names(Model(), IMAGE, None, 3, "text") == ["image"]
    assert names(Model()) == []


# Mapping


def test_mapping_reaches_every_tensor_by_its_name():
    batch = {"pixels": IMAGE, "ids": [TOKENS]}
    met = {}

    def note(name, tensor):
        met[name] = tensor
        return tensor + 1

    args, kwargs = map_inputs(note, Model(), (batch, None, 5), {"mode": "slow", "mask": VECTOR})
    assert list(met) == ["image.pixels", "image.ids.0", "mask"]
    assert torch.equal(args[0]["pixels"], IMAGE + 1)
    assert torch.equal(args[0]["ids"][0], TOKENS + 1)
    assert args[1:] == (None, 5)
    assert kwargs["mode"] == "slow"
    assert torch.equal(kwargs["mask"], VECTOR + 1)


def test_the_callers_arguments_stay_as_they_are():
    batch, options = {"pixels": IMAGE}, {"mask": VECTOR}
    map_inputs(lambda _, tensor: tensor + 1, Model(), (batch,), options)
    assert batch["pixels"] is IMAGE
    assert options["mask"] is VECTOR


# The batch


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([IMAGE, VECTOR], 0),
        ([TOKENS, VECTOR], 1),
        ([TOKENS, MASK], 0),
        ([torch.tensor(0.5), IMAGE], 1),
        ([torch.tensor(0.5), TOKENS], 1),
        ([TOKENS, WAVE], 1),
    ],
    ids=["first", "floating", "no floating", "a number is none", "nor here", "complex"],
)
def test_the_batch_is_that_of_the_first_continuous_tensor(inputs, expected):
    assert leading([(str(i), tensor) for i, tensor in enumerate(inputs)]) is inputs[expected]


BIG, TIMES = torch.zeros(9, 9, 5), torch.zeros(3)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([torch.zeros(1), VECTOR], [1, 0]),  # a temperature
        ([torch.zeros(1, 1), VECTOR], [1, 0]),
        ([TIMES, IMAGE], [1, 0]),
        ([TIMES, TOKENS], [1, 0]),
        ([BIG, IMAGE, VECTOR], [1, 0]),
        ([BIG, TOKENS, MASK], [0, 1]),  # the outputs decide: see `trace`
        ([TOKENS.flatten(), torch.zeros(4).long()], [0, 1]),
    ],
)
def test_the_likeliest_batch_comes_first(inputs, expected):
    assert leading_names([(str(i), tensor) for i, tensor in enumerate(inputs)]) == list(
        map(str, expected)
    )


def test_a_batch_that_was_found_is_taken_by_its_name():
    inputs = given(x=IMAGE, offsets=TIMES)
    assert leading(inputs, "offsets") is TIMES
    assert leading(inputs, "gone") is IMAGE


@pytest.mark.parametrize("inputs", [[], [("scale", torch.tensor(1.0))]])
def test_without_a_batch_there_is_nothing_to_mix(inputs):
    with pytest.raises(ValueError, match=r"has a batch dimension.*attach to a part of the model"):
        leading(inputs)


# The meaning of "input"


def given(**tensors):
    return list(tensors.items())


def test_input_means_the_one_continuous_input():
    assert mixed_input("input", given(x=IMAGE)) == "x"
    assert mixed_input("input", given(ids=TOKENS, x=IMAGE, mask=MASK)) == "x"
    assert mixed_input("input", given(x=IMAGE, num_items_in_batch=torch.tensor(8.0))) == "x"
    assert mixed_input("input", given(wave=WAVE)) == "wave"
    assert mixed_input("input:x", given(x=IMAGE, other=VECTOR)) == "x"
    assert mixed_input("input:batch.x", [("batch.x", IMAGE), ("batch.z", VECTOR)]) == "batch.x"


def test_two_continuous_inputs_have_to_be_told_apart():
    with pytest.raises(ValueError, match=r"has 2 such inputs. Use 'input:x' or 'input:z'"):
        mixed_input("input", given(x=IMAGE, ids=TOKENS, z=VECTOR))


def test_an_input_without_the_batch_is_not_meant():
    inputs = given(temperature=torch.zeros(1), x=VECTOR)
    assert mixed_input("input", inputs, batch=4) == "x"
    with pytest.raises(ValueError, match="has 2 such inputs"):
        mixed_input("input", inputs)


class Tempered(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, temperature, x):
        return self.b(self.a(x).tanh()) / temperature


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.EmbeddingBag(30, 8), nn.Linear(8, 3)

    def forward(self, text, offsets):
        return self.b(self.a(text, offsets))


class Bank(nn.Module):
    """The first input is a bank of features, with more rows than the batch."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(11, 3)

    def forward(self, bank, x):
        return self.b(torch.tanh(self.a(x) @ bank.T))


@pytest.mark.parametrize(
    ("model", "args", "rows"),
    [
        (Tempered(), (torch.tensor([2.0]), torch.randn(6, 5)), 6),
        (Tempered(), (torch.tensor([2.0, 3.0, 4.0]), torch.randn(6, 5)), 6),
        (Bag(), (torch.randint(30, (20,)), torch.tensor([0, 4, 9, 15])), 4),
        (Bank(), (torch.randn(11, 8), torch.randn(6, 5)), 6),
    ],
)
def test_the_batch_is_what_inputs_and_outputs_agree_on(model, args, rows):
    assert [row.name for row in find_layers(model, *args).cuts] == ["a", "b"]
    mixup = ManifoldMixup(model, ["a"], seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for _ in range(2):  # the first batch is checked
        output = model(*args)
        assert mixup.plan.batch == rows
        criterion(output, torch.randint(3, (rows,))).backward()


def test_token_ids_are_refused():
    says = r"no input is floating point, only ids \(torch.int64\), mask \(torch.bool\).*embedding"
    with pytest.raises(TypeError, match=says):
        mixed_input("input", given(ids=TOKENS, mask=MASK))
    with pytest.raises(
        TypeError, match=r"'input:ids' cannot be mixed: it is torch.int64.*embedding"
    ):
        mixed_input("input:ids", given(ids=TOKENS, x=IMAGE))


def test_an_unknown_input_gets_the_known_ones():
    with pytest.raises(ValueError, match=r"this call has no 'input:y'.*\['x', 'ids'\]"):
        mixed_input("input:y", given(x=IMAGE, ids=TOKENS))


def test_token_ids_at_the_input_are_refused():
    model = build("text")
    ManifoldMixup(model, ["input", "embed"])
    with pytest.raises(TypeError, match=r"no input is floating.*torch.int64.*embedding layer"):
        model(example(model))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 8)

    def forward(self, left, right, *, scale=None):
        return self.fc(left) if right is None else self.fc(left) * right.mean()


def test_one_of_several_inputs_must_be_named():
    model = TwoInputs()
    ManifoldMixup(model, ["input"], check=False)
    x = torch.randn(BATCH, 5)
    with pytest.raises(
        ValueError, match=r"is ambiguous: .* has 2 such inputs.*'input:left' or 'input:right'"
    ):
        model(x, x)
    mixup = ManifoldMixup(model, ["input:left"], check=False, replace=True, seed=0)
    output = model(x, right=x)
    torch.testing.assert_close(
        output, model.fc(mixup.plan.lam * x + (1 - mixup.plan.lam) * x[mixup.plan.perm]) * x.mean()
    )
    mixup = ManifoldMixup(model, ["input:middle"], check=False, replace=True)
    with pytest.raises(ValueError, match=r"has no 'input:middle'.*left"):
        model(x, x)


class Masked(nn.Module):
    """Attention pooling by a floating mask, which is read before any hidden state."""

    def __init__(self):
        super().__init__()
        self.pool, self.head = nn.Identity(), nn.Linear(5, CLASSES)

    def forward(self, x, mask):
        return self.head(self.pool((x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)))


def test_a_floating_mask_is_no_second_data_input():
    model = Masked()
    x, mask = torch.randn(BATCH, 7, 5), (torch.rand(BATCH, 7) > 0.3).float() + 1e-3
    mixup = ManifoldMixup(model, ["pool"], example=(x, mask), seed=0)
    train = mixup.wrap(nn.CrossEntropyLoss())
    train(model(x, mask), TARGET).backward()
    ManifoldMixup(model, ["input"], replace=True)
    with pytest.raises(ValueError, match=r"'input' cannot be mixed alone.*'mask'"):
        model(x, mask)


def test_a_submodule_called_input_is_not_chosen():
    model = nn.Sequential()
    for name, width in (("input", 5), ("middle", 8), ("deep", 8), ("head", 8)):
        model.add_module(name, nn.Linear(width, 8))
    assert ManifoldMixup(model, example=torch.randn(BATCH, 5)).layers == ("input", "middle")


def test_the_automatic_choice_names_an_input_that_could_be_taken_for_another():
    class OfDict(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, batch):
            return self.head(self.two(self.one(batch["x"]).relu()).relu())

    batch = {"x": torch.randn(6, 4), "y": torch.randn(6)}
    mixup = ManifoldMixup(OfDict(), example=(batch,))
    assert mixup.layers[0] == "input:batch.x"
    assert find_layers(OfDict(), {"x": batch["x"]}).default[0] == "input"


def test_a_nested_input_without_a_shape_is_explained():
    parts = [torch.randn(size, 5) for size in (3, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is a prototype
        nested = torch.nested.nested_tensor(parts, layout=torch.strided)
    model = nn.Linear(5, 3)
    with ManifoldMixup(model, ["input"]), pytest.raises(TypeError, match=r"layout=torch\.jagged"):
        model(nested)


def test_a_list_of_dicts_is_told_to_be_stacked():
    class OfList(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, batch):
            return self.head(self.one(torch.stack([example["x"] for example in batch])))

    model, batch = OfList(), [{"x": torch.randn(5)} for _ in range(BATCH)]
    with (
        ManifoldMixup(model, ["one"]),
        pytest.raises(ValueError, match=r"default_collate\(batch\)"),
    ):
        model(batch)
