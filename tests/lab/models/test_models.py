"""The models fit their data, and can be mixed."""

import itertools

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup
from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data, as_input


def task(*shape: int) -> Data:
    x = 5 + 2 * torch.randn(12, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 3
    return Data("task", x, y, x, y, classes=3, eps=0.1, space="units")


def images(side: int, channels: int = 3) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (12, channels, side, side), dtype=torch.uint8, generator=generator)
    y = torch.arange(12) % 3
    return Data("images", x, y, x, y, classes=10, eps=0.1, space="pixels")


@pytest.mark.parametrize("name", ["mlp", "cnn", "spiral-mlp"])
@pytest.mark.parametrize("shape", [(40,), (1, 28, 28), (3, 9, 7)])
def test_small_models_take_every_shape(name, shape):
    model = models.build(name, task(*shape), width=8)
    assert model(torch.randn(4, *shape)).shape == (4, 3)


FOREIGN = ["timm:test_resnet", "timm:resnet18", "timm:vit_tiny_patch16_224", "torchvision:resnet18"]
# Deeper or wider than others of the same blocks
LARGE = ["preact-resnet34", "preact-resnet152", "wrn-28-10", *FOREIGN[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough if name in LARGE else ())
        for name in (*models.NAMES, *FOREIGN)
    ],
)
def test_every_eligible_layer_is_proven(name):
    data = images(32)
    model = models.build(name, data, width=None if ":" in name else 4)
    layers = models.eligible(name, model, data.x)
    assert layers
    ManifoldMixup(model, layers).assert_verified(as_input(data.x[:4]))


# By hand: a convolution has in x out x window weights, a norm two parameters per channel.


def preact_count(counts):
    total, channels = 3 * 64 * 9, 64
    for stage, count in enumerate(counts):
        width = 64 * 2**stage
        for _ in range(count):
            total += 2 * channels + channels * width * 9 + 2 * width + width * width * 9
            total += channels * width if channels != width else 0
            channels = width
    return total + 10 * (512 + 1)


def wide_count(widen):
    total, channels = 16 * (3 * 9 + 1), 16
    for stage in range(3):
        width = 16 * widen * 2**stage
        for _ in range(4):
            total += 2 * channels + width * (channels * 9 + 1) + 2 * width + width * (width * 9 + 1)
            total += width * (channels + 1) if channels != width else 0
            channels = width
    return total + 2 * channels + 10 * (channels + 1)


def perceptron_count(*units):
    return sum(out * (into + 1) for into, out in itertools.pairwise(units))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("preact-resnet18", 11_171_146),  # as in the paper's code
        ("preact-resnet18", preact_count((2, 2, 2, 2))),
        ("preact-resnet34", preact_count((3, 4, 6, 3))),
        ("wrn-28-10", wide_count(10)),
        ("wrn-28-2", wide_count(2)),
        ("mnist-mlp-12", perceptron_count(3072, *3 * [1024], 12, *4 * [1024], 10)),
        ("mnist-mlp-30-early", perceptron_count(3072, 1024, 30, *4 * [1024], 10)),
        ("mnist-mlp-2", perceptron_count(3072, 1024, 1024, 2, 1024, 1024, 10)),
        # Four convolutions of 5 × 5 with a norm, from 3 channels to 256 of 2 × 2 pixels.
        ("factor-cnn", 25 * (96 + 2048 + 8192 + 32768) + 2 * 480 + 10 * (1024 + 1)),
        ("spiral-mlp", perceptron_count(3072, *4 * [128], 2, *3 * [128], 10)),
    ],
)
def test_parameters_are_those_counted_by_hand(name, expected):
    model = models.build(name, images(32))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_a_preact_resnet_has_no_norm_after_the_stem_and_none_before_the_pooling():
    model = models.build("preact-resnet50", images(32), width=4).eval()
    ran = []
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(as_input(images(32).x[:2]))
    assert ran[:2] == ["standardize", "conv1"]
    assert ran[2] == "layer1.0.norms.0"
    assert ran[ran.index("pool") - 1] == "layer4.2.convs.2"


@pytest.mark.parametrize(("side", "last"), [(32, 4), (64, 4)])
def test_the_last_stage_of_a_preact_resnet_sees_four_by_four(side, last):
    model, seen = models.build("preact-resnet18", images(side), width=4).eval(), []
    model.layer4.register_forward_hook(lambda *call: seen.append(call[2].shape))
    model(as_input(images(side).x[:2]))
    assert seen == [(2, 32, last, last)]


def test_the_second_convolution_of_a_wide_block_strides():
    block = models.build("wrn-28-2", images(32)).layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [
        ("timm:resnet18", "net.layer4", 4),
        ("torchvision:resnet18", "net.layer4", 4),
        ("timm:convnext_atto", "net.stages.3", 4),
        pytest.param("torchvision:vgg11_bn", "net.features", 1, marks=pytest.mark.thorough),
    ],
)
def test_the_stem_keeps_the_resolution_of_small_images(name, layer, side):
    model, seen = models.build(name, images(32)).eval(), []
    hook = lambda *call: seen.append(tuple(call[2].shape[2:]))  # noqa: E731
    model.get_submodule(layer).register_forward_hook(hook)
    model(as_input(images(32).x[:2]))
    assert seen == [(side, side)]


def test_models_of_other_libraries_take_one_channel():
    assert models.build("torchvision:resnet18", images(28, 1))(torch.rand(2, 1, 28, 28)).ndim == 2
    assert models.build("timm:resnet18", images(28, 1))(torch.rand(2, 1, 28, 28)).ndim == 2


@pytest.mark.parametrize("name", ["cnn", "preact-resnet18", "wrn-28-2", "torchvision:resnet18"])
def test_batch_norm_can_be_taken_out(name):
    data = images(32)
    width = None if ":" in name else 4

    def norms(**options):
        model = models.build(name, data, width=width, **options)
        return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())

    assert norms() == norms(batch_norm=True) > 0
    assert norms(batch_norm=False) == 0
    assert models.build(name, data, width=width, batch_norm=False)(as_input(data.x)).ndim == 2


def test_a_perceptron_gets_batch_norms_on_request():
    kinds = [type(module) for module in models.build("spiral-mlp", task(2), width=4).modules()]
    assert nn.BatchNorm1d not in kinds
    model = models.build("spiral-mlp", task(2), width=4, batch_norm=True, dropout=0.5)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.BatchNorm1d) == 8
    assert kinds.count(nn.Dropout) == 7  # not in the bottleneck
    assert nn.Dropout not in [type(module) for module in model.bottleneck.modules()]


def test_noise_is_added_to_the_standardised_input_while_training_only():
    data = task(4000)  # times twelve: accurate to a third of a percent
    model = models.build("mlp", data, width=8, noise=0.5)
    seen = []
    model.noise.register_forward_hook(lambda *call: seen.append(call[2] - call[1][0]))
    model.train()(data.x)
    model.eval()(data.x)
    assert seen[0].std().item() == pytest.approx(0.5, rel=0.03)
    assert seen[1].abs().max() == 0


@pytest.mark.parametrize("name", ["cnn", "preact-resnet18", "wrn-28-2"])
def test_dropout_reaches_the_model(name):
    model = models.build(name, images(32), width=4, dropout=0.3)
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.3}


def test_images_are_asked_for():
    with pytest.raises(ValueError, match=r"wrn-28-2 takes images, but the inputs of task have"):
        models.build("wrn-28-2", task(40))
    with pytest.raises(ValueError, match=r"timm:resnet18 takes images, but the inputs of task are"):
        models.build("timm:resnet18", task(40))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timm:resnet81", "timm:resnet18"),
        ("torchvision:resnet81", "torchvision:resnet18"),
        ("preact-resnet-18", "'preact-resnet18'"),
    ],
)
def test_of_an_unknown_name_the_nearest_is_named(name, near):
    with pytest.raises(ValueError, match=rf"no model .*Did you mean .*{near}"):
        models.check_name(name)


def test_the_model_standardises_so_that_attacks_are_in_data_units():
    data = task(40)
    first = models.build("mlp", data, width=8)[0](data.x)
    assert first.mean().item() == pytest.approx(0, abs=1e-5)
    assert first.std().item() == pytest.approx(1, abs=1e-5)


def test_constant_inputs_do_not_divide_by_zero():
    x, y = torch.ones(4, 5), torch.tensor([0, 1, 0, 1])
    data = Data("flat", x, y, x, y, classes=2, eps=0.1, space="units")
    assert models.build("mlp", data, width=4)(x).isfinite().all()


def test_an_unknown_model_is_answered_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"no model 'MPL'\. Did you mean 'mlp'\? Known: mlp, "):
        models.build("MPL", task(40), width=8)
