"""Which dimensions of a state are positions: of models of every kind, against values by hand."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from manifold_mixup import find_layers
from manifold_mixup._positions import Positions
from manifold_mixup._structure.memoized import MemoizedSearch

NONE, LINE, PLANE, VOLUME = Positions(()), Positions((1,)), Positions((2, 3)), Positions((2, 3, 4))
LAST, SIDES = Positions((2,)), Positions((1, 2))
UNKNOWN = None


def grid(*sides, first=0, dim=1):
    return Positions((dim,), sides, first)


def image(side=32, channels=3):
    return torch.randn(2, channels, side, side)


def look(model, *args):
    """Return the positions of all inputs and layers of which something is mixed."""
    table = find_layers(model, *args)
    found = {f"input:{row.name}": row.positions for row in table.inputs}
    for row in table.rows:
        if row.mixed:
            found[row.name] = dict(row.positions).get(row.mixed[0])
            assert dict(row.shapes)[row.mixed[0]] == row.shape
    return found


def require(model, args, expected):
    found = look(model, *args)
    assert {name: found[name] for name in expected} == expected


# Models of timm: image models whose states are maps, maps with channels last, or tokens


@pytest.mark.parametrize(
    ("name", "kwargs", "side", "expected"),
    [
        (
            "resnet18",
            {},
            64,
            {"input:x": PLANE, "conv1": PLANE, "layer2.0": PLANE, "layer4": PLANE, "fc": NONE}
            | {"global_pool.pool": NONE, "global_pool": NONE},
        ),
        (
            "convnext_atto",
            {"conv_mlp": False},
            64,
            {"input:x": PLANE, "stem": PLANE, "stages.1.blocks.0": PLANE, "head.flatten": NONE}
            | {"stages.0.blocks.0.mlp.fc1": SIDES, "stages.0.blocks.0.norm": SIDES},
        ),
        (
            "efficientnet_b0",
            {},
            64,
            {"input:x": PLANE, "blocks.1.0": PLANE, "blocks.1.0.se.conv_reduce": NONE}
            | {"blocks.6.0": PLANE, "conv_head": PLANE, "classifier": NONE},
        ),
        (
            "poolformer_s12",
            {},
            64,
            {"input:x": PLANE, "stages.0.blocks.0": PLANE, "stages.2": PLANE},
        ),
        (
            "vit_tiny_patch16_224",
            {"img_size": (32, 64)},
            (32, 64),
            {"input:x": PLANE, "patch_embed.proj": PLANE, "patch_embed": grid(2, 4)}
            | {"pos_drop": grid(2, 4, first=1), "blocks.0": grid(2, 4, first=1)}
            | {"blocks.5.mlp.fc1": grid(2, 4, first=1), "blocks.11": grid(2, 4, first=1)}
            | {"norm": grid(2, 4, first=1), "fc_norm": NONE, "head": NONE},
        ),
        (
            "deit_tiny_distilled_patch16_224",
            {"img_size": 32},
            32,
            {"patch_embed": grid(2, 2), "blocks.0": grid(2, 2, first=2), "head": NONE},
        ),
        (
            "vit_small_patch14_reg4_dinov2",
            {"img_size": 28, "depth": 3},
            28,
            {"patch_embed": grid(2, 2), "blocks.2": grid(2, 2, first=5)},
        ),
        (
            "cait_xxs24_224",
            {"img_size": 32, "depth": 2},
            32,
            {"blocks.1": grid(2, 2), "norm": grid(2, 2, first=1), "head": NONE},
        ),
        (
            "beit_base_patch16_224",
            {"img_size": 32, "depth": 2},
            32,
            {"patch_embed": grid(2, 2), "blocks.1": grid(2, 2, first=1), "fc_norm": NONE},
        ),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 64, "window_size": 4},
            64,
            {"input:x": PLANE, "patch_embed": SIDES, "layers.0.blocks.1": SIDES}
            | {"layers.1.downsample.reduction": SIDES, "layers.3": SIDES, "head.fc": NONE},
        ),
        (
            "mixer_s16_224",
            {"img_size": 32},
            32,
            {"stem": grid(2, 2), "blocks.0": grid(2, 2), "blocks.1": grid(2, 2), "head": NONE}
            # Products along the tokens contradict the norm along the channels.
            | {"blocks.0.norm1": UNKNOWN, "blocks.0.mlp_tokens.fc1": UNKNOWN},
        ),
    ],
)
def test_models_of_images(name, kwargs, side, expected):
    height, width = side if isinstance(side, tuple) else (side, side)
    require(timm.create_model(name, **kwargs), [torch.randn(2, 3, height, width)], expected)


# Models by hand


class Series(nn.Module):
    """A 1-D CNN: (B, C, T) → (B, K)."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.pool, self.head = nn.MaxPool1d(2), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.pool(self.norm(self.stem(x)).relu()).mean(-1))


class Recurrent(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.stem, self.rnn = nn.Linear(3, 6), nn.LSTM(6, 7, batch_first=batch_first)
        self.head = nn.Linear(7, 5)

    def forward(self, x):
        out = self.rnn(self.stem(x))[0]
        return self.head(out)


class Cells(nn.Module):
    """A recurrent cell in a loop over time."""

    def __init__(self):
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(3, 6), nn.GRUCell(6, 7), nn.Linear(7, 5)

    def forward(self, x):
        x, state, states = self.stem(x), None, []
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
            states.append(state)
        return self.head(torch.stack(states, 1).mean(1))


class Text(nn.Module):
    def __init__(self, norm_first):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, ids):
        return self.head(self.blocks(self.embed(ids)).mean(1))


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Llama(nn.Module):
    """Blocks whose norm and attention are written by hand."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.after = nn.Embedding(50, 8), RMSNorm(8), RMSNorm(8)
        self.qkv, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 50)

    def forward(self, ids):
        x = self.embed(ids)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = self.out((q @ k.mT).softmax(-1) @ v) + x
        return self.head(self.after(x))


class Across(nn.Module):
    """A norm over channels, then weights across positions, as in a gMLP."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(50, 8), nn.LayerNorm(8)
        self.across, self.head = nn.Linear(6, 6), nn.Linear(8, 5)

    def forward(self, ids):
        return self.head(self.across(self.norm(self.embed(ids)).mT).mT)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = self.down1(x).relu()
        low = self.down2(F.max_pool2d(skip, 2)).relu()
        return self.last(torch.cat([skip, self.up(low)], 1))


class Residual(nn.Module):
    """An MLP of rows of a table."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.inner = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.inner(self.norm(x).relu()))


class ByHand(nn.Module):
    """Patches cut by reshaping, as einops does, and a class token behind them."""

    def __init__(self):
        super().__init__()
        self.embed, self.drop = nn.Linear(3 * 16, 8), nn.Dropout()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
        x = self.embed(x.reshape(b, h * w // 16, 48))
        x = self.drop(torch.cat([x, self.token.expand(b, -1, -1)], 1))
        return self.head(self.norm(x)[:, -1])


class Merged(nn.Module):
    """Tokens of a grid, of which 2 × 2 are merged as in Hugging Face's Swin."""

    def __init__(self, way="merge"):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.reduce, self.head, self.way = nn.Linear(32, 8), nn.Linear(8, 3), way

    def forward(self, x):
        x = self.stem(x)
        b, c, h, w = x.shape
        x = self.norm(x.flatten(2).transpose(1, 2))
        if self.way == "merge":
            x = x.view(b, h, w, c)
            parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
            x = self.reduce(torch.cat(parts, -1).view(b, -1, 4 * c))
        elif self.way == "windows":
            x = x.view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(b, -1, c)
            x = self.reduce(x.repeat(1, 1, 4))
        elif self.way == "transposed":
            x = x.view(b, h, w, c).transpose(1, 2).reshape(b, -1, c)
            x = self.reduce(x.repeat(1, 1, 4))
        elif self.way == "rolled":
            x = self.reduce(torch.cat([x.roll(1, 1)] * 4, -1))
        return self.head(x.mean(1))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(3 * 16 * 16, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.first(x.flatten(1)).relu())


class Bag(nn.Module):
    """Images of a bag, folded into the batch dimension and reduced to one pixel each."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 6)
        self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.deep(self.stem(x.flatten(0, 1)).relu())
        return self.head(self.embed(h.view(*x.shape[:2], 8)).relu().mean(1))


def volumes():
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1))


IDS = torch.randint(0, 50, (2, 6))


@pytest.mark.parametrize(
    ("model", "args", "expected"),
    [
        (Series, [torch.randn(4, 3, 16)], dict.fromkeys(["input:x", "stem", "norm", "pool"], LAST)),
        (
            lambda: Recurrent(True),
            [torch.randn(4, 9, 3)],
            dict.fromkeys(["input:x", "stem", "rnn", "head"], LINE),
        ),
        (Cells, [torch.randn(4, 9, 3)], {"input:x": LINE, "stem": LINE, "head": NONE}),
        (
            lambda: Text(True),
            [IDS],
            {"embed": LINE, "blocks.layers.0": LINE, "blocks": LINE, "head": NONE},
        ),
        (lambda: Text(False), [IDS], {"embed": LINE, "blocks.layers.0": LINE, "blocks": LINE}),
        (Llama, [IDS], dict.fromkeys(["embed", "norm", "qkv", "out", "after", "head"], LINE)),
        (Across, [IDS], {"embed": LINE, "norm": UNKNOWN, "across": UNKNOWN}),
        (
            volumes,
            [torch.randn(2, 2, 4, 5, 6)],
            {"input:input": VOLUME, "0": VOLUME, "1": VOLUME, "2": NONE},
        ),
        (UNet, [image(16)], dict.fromkeys(["input:x", "down1", "down2", "up", "last"], PLANE)),
        (
            Residual,
            [torch.randn(4, 6)],
            dict.fromkeys(["input:x", "stem", "norm", "inner", "head"], NONE),
        ),
        (ByHand, [image(16)], {"embed": grid(4, 4), "drop": grid(4, 4), "head": NONE}),
        (Merged, [image(32)], {"stem": PLANE, "norm": grid(8, 8), "reduce": UNKNOWN}),
        (lambda: Merged("windows"), [image(32)], {"norm": grid(8, 8), "reduce": UNKNOWN}),
        (lambda: Merged("transposed"), [image(32)], {"norm": grid(8, 8), "reduce": UNKNOWN}),
        (lambda: Merged("rolled"), [image(32)], {"norm": grid(8, 8), "reduce": UNKNOWN}),
        (Bag, [torch.randn(2, 4, 3, 8, 8)], {"stem": PLANE, "embed": UNKNOWN, "head": NONE}),
        (Flat, [image(16)], {"input:x": UNKNOWN, "first": NONE, "head": NONE}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_models_by_hand(model, args, expected):
    require(model(), args, expected)


def test_time_first_with_the_batch_at_dimension_1():
    table = find_layers(Recurrent(False), torch.randn(9, 4, 3), batch_dim=1)
    assert [row.positions for row in table.inputs] == [Positions((0,))]
    for name in ("stem", "rnn", "head"):
        row = next(row for row in table.rows if row.name == name)
        assert dict(row.positions)[row.mixed[0]] == Positions((0,))


# The layout in memory does not matter


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(form):
    model = Merged().to(memory_format=form)
    require(model, [image().to(memory_format=form)], {"stem": PLANE, "norm": grid(8, 8)})


# What is carried beside a layer's output


class Carried(nn.Module):
    """A layer beside which the map crosses, received by a later module."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.join = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), Joined()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.join(x, self.gate(x.mean((2, 3)))))


class Joined(nn.Module):
    def forward(self, x, gate):
        return x * gate[:, :, None, None]


def test_what_is_carried_has_its_shape_and_positions():
    row = next(row for row in find_layers(Carried(), image(8)).rows if row.name == "gate")
    assert row.cut
    assert row.shapes == (("", (2, 4)),)
    assert dict(row.positions) == {"": NONE}
    assert [(carry.layer, carry.shape, carry.positions) for carry in row.carries] == [
        ("join", (2, 4, 8, 8), PLANE)
    ]


class Twin(nn.Module):
    """Two branches of one stem, of the same size or not."""

    def __init__(self, same):
        super().__init__()
        self.stem, self.head, self.same = nn.Conv2d(3, 4, 1), nn.Linear(4, 2), same

    def forward(self, x):
        second = self.stem(x if self.same else F.avg_pool2d(x, 2))
        return self.head(self.stem(x).mean((2, 3)) * second.mean((2, 3)))


@pytest.mark.parametrize("same", [True, False])
def test_all_runs_of_a_module_together_have_the_shape_that_all_have(same):
    row = next(row for row in find_layers(Twin(same), image(8)).rows if row.name == "stem@*")
    assert row.shapes == ((("", (2, 4, 8, 8)),) if same else ())
    assert dict(row.positions) == {"": PLANE}


# A grid says which token is which patch: changing one changes the other


@pytest.mark.parametrize(
    ("model", "layer", "patch"),
    [
        (lambda: timm.create_model("vit_tiny_patch16_224", img_size=(32, 64)), "pos_drop", 16),
        (
            lambda: timm.create_model("deit_tiny_distilled_patch16_224", img_size=(32, 64)),
            "pos_drop",
            16,
        ),
        (
            lambda: timm.create_model("vit_small_patch14_reg4_dinov2", img_size=(28, 56), depth=1),
            "norm_pre",
            14,
        ),
        (lambda: timm.create_model("mixer_s16_224", img_size=(32, 64)), "stem", 16),
        (ByHand, "drop", 4),
        (Merged, "norm", 4),
    ],
)
def test_changing_a_patch_changes_its_token_alone(model, layer, patch):
    model = model().eval()
    x = torch.randn(2, 3, 2 * patch, 4 * patch)
    states = []
    model.get_submodule(layer).register_forward_hook(lambda *call: states.append(call[-1]))
    positions = look(model, x)[layer]
    states.clear()
    assert positions.grid == (2, 4)
    model(x)
    for row in range(2):
        for column in range(4):
            other = x.clone()
            other[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 1
            model(other)
            changed = (states[0] != states[-1]).any(-1).any(0).nonzero().flatten().tolist()
            assert changed == [positions.first + 4 * row + column]


# The value itself


def test_the_sides_of_a_box():
    assert PLANE.axes == 2
    assert PLANE.sides((2, 3, 5, 7)) == (5, 7)
    tokens = grid(2, 3, first=1)
    assert tokens.axes == 2
    assert tokens.sides((4, 9, 8)) == (2, 3)  # two tokens after the patches
    assert tokens.sides((4, 7, 8)) == (2, 3)
    with pytest.raises(ValueError, match=r"grid of 2 × 3 patches after 1 other tokens needs .* 7"):
        tokens.sides((4, 6, 8))
    with pytest.raises(ValueError, match=r"dimensions \(2, 3\) are the positions"):
        PLANE.sides((2, 3, 4))
    assert NONE.axes == 0


@pytest.mark.parametrize(("to", "dims"), [(1, (0, 2)), (2, (0, 1)), (0, (1, 2)), (3, (0, 1))])
def test_positions_when_the_batch_is_moved(to, dims):
    assert SIDES.moved(0, to).dims == dims


class Mapped(nn.Module):
    """Applies a function to each example by vmap, in which tensors hide the batch."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return torch.func.vmap(self.function)(x)


def test_what_a_functional_transform_hides_is_passed_over():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Mapped(torch.relu), nn.Flatten(), nn.Linear(256, 3)
    )
    expected = {"input:input": PLANE, "0": PLANE, "1": PLANE, "2": NONE, "3": NONE}
    require(net, [torch.randn(4, 3, 8, 8)], expected)
    net = nn.Sequential(Mapped(nn.Linear(6, 5)), nn.Flatten(), nn.Linear(50, 3))
    found = look(net, torch.randn(4, 10, 6))
    assert (found["0"], found["1"]) == (LINE, NONE)
    assert found["0.function"] is UNKNOWN


def test_recursion_that_is_deeper_than_the_stack():
    def count(number):
        return math.inf if number < 0 else 1 + (yield number - 1) if number else 0

    assert MemoizedSearch(count)(50_000) == 50_000
