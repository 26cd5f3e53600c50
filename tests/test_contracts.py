"""Contracts of every model and layer: the zoo, compared with oracles split by hand."""

import copy
import pickle

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan
from zoo import (
    BATCH,
    CLASSES,
    PLACES,
    TARGET,
    ZOO,
    build,
    example,
    gradients,
    hand_split,
    layers_of,
    logits,
    plain_labels,
    plan_at,
)

BY_PLACE = pytest.mark.parametrize(("name", "layer"), PLACES)
BY_MODEL = pytest.mark.parametrize("name", ZOO)
THOROUGH = pytest.mark.thorough
# A layer of every kind of model; where the place does not matter, the others repeat these.
SOME = {
    ("mlp", "fc1"),
    ("conv", "bn1"),
    ("reentrant", "layer1"),
    ("structured", "first"),
    ("lstm", "lstm"),
    ("text", "blocks.0"),
}


def by_place(*values, quick):
    """Return cases of all places with each of the values, of which all places are only quick."""
    return [
        pytest.param(*place, value, marks=() if value in quick or place in SOME else THOROUGH)
        for place in PLACES
        for value in values
    ]


def attach(model, name, **options):
    return ManifoldMixup(model, layers_of(name), seed=0, **options)


@pytest.mark.parametrize(
    ("name", "layer", "per_sample"), by_place(False, True, "repeats", quick=(False, "repeats"))
)
def test_output_and_gradients_are_those_of_the_hand_split_model(name, layer, per_sample):
    model, oracle = build(name), build(name)
    x, plan = example(model), plan_at(layer, per_sample=per_sample)
    mixup = attach(model, name)

    with mixup.using(plan):
        output = model(x)
    mixup.wrap(nn.CrossEntropyLoss())(logits(output), TARGET).backward()
    expected = hand_split(oracle, x, plan)
    soft = plain_labels(TARGET, CLASSES, plan)
    torch.testing.assert_close(MixedTarget(TARGET, plan).soft(CLASSES), soft)
    nn.functional.cross_entropy(logits(expected), soft).backward()

    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(model), gradients(oracle))


@BY_PLACE
def test_batch_statistics_are_those_of_one_pass(name, layer):
    model, oracle = build(name), build(name)
    x, plan = example(model), plan_at(layer)
    with attach(model, name).using(plan):
        model(x)
    hand_split(oracle, x, plan)
    torch.testing.assert_close(dict(model.named_buffers()), dict(oracle.named_buffers()))


@pytest.mark.parametrize(("name", "layer", "what"), by_place("lam=1", "identity", quick=("lam=1",)))
def test_nothing_to_mix_changes_no_bit(name, layer, what):
    model, oracle = build(name), build(name)
    x = example(model)
    if what == "lam=1":
        lam, perm = torch.tensor(1.0), torch.randperm(BATCH)
    else:
        lam, perm = torch.rand(()), torch.arange(BATCH)
    with attach(model, name).using(MixPlan(layer, lam, perm)):
        assert_identical(model(x), oracle(x))


@BY_MODEL
def test_every_layer_is_drawn_and_the_wrapped_criterion_follows(name):
    model, oracle = build(name), build(name)
    x, mixup = example(model), attach(model, name)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    drawn = set()
    for _ in range(40):
        output = model(x)
        drawn.add(mixup.plan.layer)
        loss = criterion(logits(output), TARGET)
        soft = MixedTarget(TARGET, mixup.plan).soft(CLASSES)
        expected = nn.functional.cross_entropy(logits(hand_split(oracle, x, mixup.plan)), soft)
        torch.testing.assert_close(loss, expected)
    assert drawn == set(layers_of(name))


@BY_MODEL
def test_eval_mode_and_the_criterion_in_it_are_untouched(name):
    model, oracle = build(name).eval(), build(name).eval()
    x, mixup = example(model), attach(model, name)
    output = model(x)
    assert_identical(output, oracle(x))
    plain = nn.CrossEntropyLoss()
    assert mixup.wrap(plain)(logits(output), TARGET) == plain(logits(output), TARGET)
    assert mixup.plan is None
    assert mixup.state_dict()["step"] == 0


@BY_MODEL
def test_removal_leaves_the_model_as_it_was(name):
    model = build(name)
    before = account(model)
    mixup = attach(model, name)
    mixup.wrap(nn.CrossEntropyLoss())(logits(model(example(model))), TARGET).backward()
    assert account(model)[:4] == before[:4], "attaching changes class, state_dict or parameters"
    mixup.remove()
    assert account(model) == before
    assert b"manifold_mixup" not in pickle.dumps(model)


@BY_MODEL
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_come_back_unattached(name, duplicate):
    model, untouched = build(name), build(name)
    attach(model, name)
    twin = duplicate(model)
    assert_identical(twin(example(model)), untouched(example(model)))
    ManifoldMixup(twin, layers_of(name))  # not attached, so replace=True is not needed
    assert len(pickle.dumps(model)) < len(pickle.dumps(untouched)) + 3000


@pytest.mark.parametrize(
    ("name", "layer"),
    [pytest.param(*place, marks=() if place in SOME else THOROUGH) for place in PLACES],
)
def test_autocast_keeps_the_dtype(name, layer):
    model = build(name)
    x, untouched = example(model), build(name)
    with torch.autocast("cpu", torch.bfloat16):
        try:
            plain = untouched(x)
        except RuntimeError as error:  # such as an LSTM without AVX-512
            pytest.skip(f"PyTorch has no such operator for this processor: {error}")
        mixup = attach(model, name)
        with mixup.using(plan_at(layer)):
            mixed = model(x)
    assert logits(mixed).dtype == logits(plain).dtype
    mixup.wrap(nn.CrossEntropyLoss())(logits(mixed).float(), TARGET).backward()


@BY_MODEL
def test_the_callers_tensors_are_not_written_to(name):
    model = build(name)
    x = example(model)
    before = x.clone(), TARGET.clone()
    mixup = attach(model, name)
    for _ in range(8):
        mixup.wrap(nn.CrossEntropyLoss())(logits(model(x)), TARGET).backward()
    assert torch.equal(x, before[0])
    assert torch.equal(TARGET, before[1])


@BY_MODEL
def test_the_global_generator_is_neither_read_nor_advanced(name):
    model = build(name)
    x, mixup = example(model), attach(model, name)
    before = torch.get_rng_state()
    plans = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        mixup.load_state_dict({"seed": 0, "step": 0, "stream": 2})
        state = torch.get_rng_state()
        model(x)
        assert torch.equal(torch.get_rng_state(), state)
        plans.append(mixup.plan)
    torch.set_rng_state(before)
    assert torch.equal(plans[0].perm, plans[1].perm)


def assert_identical(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def account(model):
    """Return all visible state of a model: parameters by identity, hooks last."""
    return (
        type(model),
        list(model.state_dict()),
        [id(parameter) for parameter in model.parameters()],
        [name for name, _ in model.named_modules()],
        [
            (len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
            for module in model.modules()
        ],
    )
