"""The model's inputs: their names, the batch, and which one "input" means."""

import pytest
import torch
from torch import nn

from manifold_mixup._inputs import leading, map_inputs, mixed_input, named_inputs

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


@pytest.mark.parametrize("inputs", [[], [("scale", torch.tensor(1.0))]])
def test_without_a_batch_there_is_nothing_to_mix(inputs):
    with pytest.raises(ValueError, match=r"has a batch dimension.*attach to a part of the model"):
        leading(inputs)


# What "input" means


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
    with pytest.raises(ValueError, match=r"2 inputs of this model. Say 'input:x' or 'input:z'"):
        mixed_input("input", given(x=IMAGE, ids=TOKENS, z=VECTOR))


def test_token_ids_are_refused():
    says = r"no input is floating point, only ids \(torch.int64\), mask \(torch.bool\).*embedding"
    with pytest.raises(TypeError, match=says):
        mixed_input("input", given(ids=TOKENS, mask=MASK))
    with pytest.raises(
        TypeError, match=r"'input:ids' cannot be mixed: it is torch.int64.*embedding"
    ):
        mixed_input("input:ids", given(ids=TOKENS, x=IMAGE))


def test_an_unknown_input_gets_the_known_ones():
    with pytest.raises(ValueError, match=r"'input:y' is no input of this call.*\['x', 'ids'\]"):
        mixed_input("input:y", given(x=IMAGE, ids=TOKENS))
