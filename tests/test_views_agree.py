"""Structure and numbers, the two views of where one may mix, say the same."""

import pytest
from torch import nn

from architectures import (
    PreActResNet,
    Recurrent,
    UNet,
    bert,
    cases,
    disagreeing,
    examine,
    layers_in,
    padding,
    prove_by_hand,
    token_ids,
)
from folded import WAYS, Folded
from manifold_mixup import find_layers
from shared import SHARED
from states import normal


def short(model):
    """Return a BERT with two of its blocks, of which the first gives its mask to the second."""
    del model.bert.encoder.layer[2:]
    return model


@pytest.mark.parametrize(
    ("model", "args", "kwargs"),
    [
        (PreActResNet((1, 1, 1, 1)), (normal(4, 3, 16, 16),), {}),
        (UNet(), (normal(4, 3, 8, 8),), {}),
        (Recurrent(nn.LSTM), (token_ids(),), {}),
        (Recurrent(nn.GRU), (token_ids(),), {}),
        pytest.param(short(bert()), (token_ids(),), {}, marks=pytest.mark.thorough),  # as padded
        (short(bert()), (), {"input_ids": token_ids(), "attention_mask": padding()}),
        *((Folded(way), (normal(4, 4, 5).double(),), {}) for way in WAYS),
        *((kind(), kind.example(), {}) for kind in SHARED),
    ],
    ids=["preactresnet", "unet", "lstm", "gru", "bert", "bert padded", *WAYS, *map(str, SHARED)],
)
def test_structure_and_numbers_agree_on_every_module(model, args, kwargs):
    table = find_layers(model, *args, **kwargs)
    report = prove_by_hand(model, table, layers_in(table), args, kwargs)
    assert not disagreeing(table, report)


SAMPLE = [
    pytest.param("torchvision/resnet18", marks=pytest.mark.thorough),
    "torchvision/squeezenet1_0",
    pytest.param("torchvision/shufflenet_v2_x0_5", marks=pytest.mark.thorough),
    pytest.param("torchvision/mobilenet_v3_small", marks=pytest.mark.thorough),
    pytest.param("timm/convnext_atto", marks=pytest.mark.thorough),
    "timm/vit_tiny_patch16_224",
    pytest.param("timm/coatnet_pico_rw_224", marks=pytest.mark.thorough),
    pytest.param("timm/resmlp_12_224", marks=pytest.mark.thorough),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.filterwarnings("ignore")
def test_architectures_resolve_to_proven_layers(name):
    case = next(case for case in cases() if case.name == name)
    result = examine(case, sample=4)
    assert result.ok, result
    assert len(result.layers) == 3
    assert all(0.05 <= depth <= 0.70 for depth in result.depths)
