"""resolve: from names, patterns and modules to the names of layers."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from manifold_mixup._layers import is_input, named_layers, resolve, unwrap


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.layer1, self.layer2, self.layer10 = Block(), Block(), Block()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(2, 2)


def compiled(module):
    return torch.compile(module, backend="eager")


@pytest.fixture
def net():
    return Net()


# Names


def test_names_come_in_the_order_of_the_model_and_once(net):
    assert resolve(net, ["head", "layer2", "stem", "layer2"]) == ("stem", "layer2", "head")
    assert resolve(net, ["blocks.1.mlp.0", "blocks.0.attn"]) == ("blocks.0.attn", "blocks.1.mlp.0")


def test_the_input_comes_first(net):
    assert resolve(net, ["layer1", "input"]) == ("input", "layer1")
    assert resolve(net, ["layer1", "input:x", "stem"]) == ("input:x", "stem", "layer1")
    assert is_input("input")
    assert is_input("input:x")
    assert not is_input("input_layer")


def test_one_layer_needs_no_list(net):
    assert resolve(net, "layer1") == ("layer1",)
    assert resolve(net, net.layer1) == ("layer1",)
    assert resolve(net, "input") == ("input",)


def test_any_iterable_will_do(net):
    for layers in (
        ("stem", "head"),
        {"stem", "head"},
        iter(["stem", "head"]),
        {"stem": 1, "head": 2},
    ):
        assert resolve(net, layers) == ("stem", "head")


# Patterns


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("blocks.*", ("blocks.0", "blocks.1", "blocks.2")),
        ("blocks.*.attn", ("blocks.0.attn", "blocks.1.attn", "blocks.2.attn")),
        ("blocks.[02]", ("blocks.0", "blocks.2")),
        ("blocks.[!0]", ("blocks.1", "blocks.2")),
        ("layer?", ("layer1", "layer2")),
        ("layer*", ("layer1", "layer2", "layer10")),
        ("*.mlp", ("layer1.mlp", "layer2.mlp", "layer10.mlp")),
        ("*", ("stem", "layer1", "layer2", "layer10", "blocks", "head")),
        ("blocks.2.*.*", ("blocks.2.mlp.0", "blocks.2.mlp.1")),
    ],
)
def test_wildcards_stay_within_one_part_of_a_name(net, pattern, names):
    assert resolve(net, pattern) == names


def test_patterns_names_and_modules_together(net):
    layers = ["blocks.*", net.layer2, "input", "blocks.1"]
    assert resolve(net, layers) == ("input", "layer2", "blocks.0", "blocks.1", "blocks.2")


# Modules, shared modules, wrappers


def test_modules_are_found_by_identity(net):
    assert resolve(net, [net.blocks[1], net.layer1.mlp]) == ("layer1.mlp", "blocks.1")


@pytest.mark.parametrize("stranger", [nn.Linear(2, 2), nn.ModuleList([nn.ReLU()])])
def test_a_module_of_another_model_is_refused(net, stranger):
    name = type(stranger).__name__
    with pytest.raises(ValueError, match=f"a {name} was given.*not a submodule of Net"):
        resolve(net, stranger)


def test_the_model_itself_is_no_layer(net):
    with pytest.raises(ValueError, match="not a submodule of Net"):
        resolve(net, net)


def test_a_shared_module_has_one_name(net):
    net.tied = net.layer1
    net.layer2.tied = net.stem
    net.layer2.wrapped = compiled(net.stem)
    names = list(named_layers(net))
    assert len(names) == 33
    assert not [name for name in names if "tied" in name or "wrapped" in name]
    assert resolve(net, ["tied"]) == resolve(net, [net.tied]) == ("layer1",)
    assert resolve(net, ["tied.mlp", "layer1.mlp"]) == ("layer1.mlp",)
    assert resolve(net, "layer2.tied") == resolve(net, "layer2.wrapped") == ("stem",)


WRAPPED = {
    "plain": lambda net: net,
    "compiled": compiled,
    "checkpointed": checkpoint_wrapper,
    "both": lambda net: compiled(checkpoint_wrapper(net)),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_names_are_free_of_wrappers(net, wrap):
    wrapped = wrap(net)
    assert unwrap(wrapped) is net
    assert list(named_layers(wrapped)) == list(named_layers(net))
    assert resolve(wrapped, ["layer1", "blocks.*"]) == resolve(net, ["layer1", "blocks.*"])
    assert resolve(wrapped, net.layer1) == ("layer1",)


def test_names_are_free_of_ddp(net):
    net.tied = net.layer1
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(net)
        assert unwrap(model) is net
        assert list(named_layers(model)) == list(named_layers(net))
        for name in ("layer1", "module.layer1", "tied", "module.tied", net.layer1):
            assert resolve(model, name) == ("layer1",)
    finally:
        torch.distributed.destroy_process_group()


def test_names_with_wrappers_in_them_are_understood(net):
    net.layer1 = compiled(net.layer1)
    model = compiled(net)
    for name, module in model.named_modules():
        if unwrap(module) is not net:
            (found,) = resolve(model, name)
            assert unwrap(named_layers(model)[found]) is unwrap(module)
            assert "_orig_mod" not in found
    assert resolve(model, "_orig_mod.layer1._orig_mod.mlp") == ("layer1.mlp",)


def test_a_wrapped_layer_is_taken_with_its_wrapper(net):
    inner = net.layer1
    net.layer1 = compiled(inner)
    net.blocks[1] = checkpoint_wrapper(net.blocks[1])
    layers = named_layers(net)
    assert layers["layer1"] is net.layer1
    assert layers["blocks.1"] is net.blocks[1]
    assert layers["layer1.mlp"] is inner.mlp
    assert resolve(net, [inner, net.blocks[1]]) == ("layer1", "blocks.1")


# Errors


@pytest.mark.parametrize("layers", [[], (), iter([])])
def test_no_layers_at_all(net, layers):
    with pytest.raises(ValueError, match=r"layers is empty.*layers=None and example="):
        resolve(net, layers)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("layr2", r"Net has no layer 'layr2'. Did you mean 'layer2'"),
        ("blocks.0.atn", r"Did you mean 'blocks.\d.attn'"),
        ("imput", "Did you mean 'input'"),
        ("block.*", r"Net has no layer 'block.\*'"),
        ("blocks.*.*.*.*", "Net has no layer"),
        ("zzz", r"Net has no layer 'zzz'. find_layers\(model, example\) lists all 33"),
        ("", "layer '' is no module of Net|not a submodule of Net"),
        ("layer1.", "Net has no layer"),
        ("layer1.forward", "Net has no layer"),
        ("stem.weight", "Net has no layer"),
    ],
)
def test_unknown_names_get_the_nearest(net, entry, says):
    assert len(named_layers(net)) == 33
    with pytest.raises(ValueError, match=says):
        resolve(net, ["layer1", entry])
    with pytest.raises(ValueError, match=says):
        resolve(compiled(net), entry)


@pytest.mark.parametrize("entry", [3, None, nn.Linear, b"layer1", ["layer1"]])
def test_entries_are_names_or_modules(net, entry):
    with pytest.raises(
        TypeError, match=f"must be a name or a module, but .* is a {type(entry).__name__}"
    ):
        resolve(net, ["layer1", entry])


def test_a_module_called_input_cannot_be_chosen():
    """The name would mean the model's input everywhere else."""
    model = nn.Sequential()
    model.add_module("input", nn.Linear(2, 2))
    model.add_module("hidden", nn.Linear(2, 2))
    for entry in (model.input, "inp*", "*"):
        with pytest.raises(
            ValueError, match="the module 'input' of Sequential cannot be told apart"
        ):
            resolve(model, [entry])
    assert resolve(model, ["input", "hidden"]) == ("input", "hidden")


def test_a_model_without_modules():
    with pytest.raises(ValueError, match=r"Identity has no layer 'fc'.*lists all 0"):
        resolve(nn.Identity(), "fc")
    assert resolve(nn.Identity(), "input") == ("input",)
