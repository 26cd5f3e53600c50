"""Mixing by positions at every layer: against hand-split models and the plain formula."""

import pytest
import torch
from torch import nn

from costs import WAYS, Costs
from manifold_mixup import Cut, ManifoldMixup, MixedTarget, _interpolate, _mix
from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._positions import Positions
from manifold_mixup._weigh import Place, mix_weighed
from states import DTYPES, LAYOUTS, randn
from with_positions import (
    BATCH,
    CLASSES,
    PLACES,
    TARGET,
    build,
    by_positions,
    example,
    hand_split,
    labels,
    plan_by,
    weights,
)
from zoo import gradients

KINDS = ["hard", "hard each", "soft", "soft each"]
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
REPEATS = pytest.mark.parametrize("repeats", [False, True], ids=["permutation", "repeats"])


def spread(own, x, dims):
    shape = [len(own)] + [1] * (x.ndim - 1)
    for axis, dim in enumerate(dims):
        shape[dim] = own.shape[1 + axis]
    return own.view(shape)


# The operation


@EACH_KIND
@REPEATS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_formula_in_every_type_and_layout(kind, repeats, dtype, layout):
    x, grad = (LAYOUTS[layout](randn(6, 5, 4, 3, dtype=dtype, seed=seed)) for seed in (1, 2))
    plan = plan_by("", weights((4, 3), kind), repeats=repeats)
    own = spread(plan.weight, x, (2, 3))
    x = x.detach().requires_grad_()
    mixed = _mix.apply(x, own, plan.perm, repeats=repeats)
    (found,) = torch.autograd.grad(mixed, x, grad)
    exact = torch.promote_types(dtype, torch.float64)
    twin = x.detach().to(exact).requires_grad_()
    expected = by_positions(twin, plan.weight, plan.perm, (2, 3))
    (wanted,) = torch.autograd.grad(expected, twin, grad.to(exact))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        mixed.detach().to(exact), expected.detach(), rtol=2 * eps, atol=4 * eps
    )
    torch.testing.assert_close(found.to(exact), wanted, rtol=2 * eps, atol=8 * eps)
    assert mixed.dtype == dtype
    if layout in ("contiguous", "channels last"):
        assert mixed.stride() == x.stride()
    if "hard" in kind:  # nothing is rounded where nothing is added
        assert torch.equal(mixed, torch.where(own, x, x[plan.perm]))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@EACH_KIND
@REPEATS
def test_higher_derivatives(kind, repeats):
    plan = plan_by("", weights((4,), kind, batch=3), repeats=repeats, batch=3)
    x = randn(3, 2, 4, dtype=torch.float64).requires_grad_()

    def mixed(x):
        return _mix.apply(x, spread(plan.weight, x, (2,)), plan.perm, repeats=repeats).sin()

    assert torch.autograd.gradcheck(mixed, x)
    assert torch.autograd.gradgradcheck(mixed, x)
    tangent = randn(3, 2, 4, dtype=torch.float64, seed=3)
    _, forward = torch.func.jvp(mixed, (x.detach(),), (tangent,))
    jacobian = torch.autograd.functional.jacobian(mixed, x.detach())
    torch.testing.assert_close(forward, torch.tensordot(jacobian, tangent, 3))


@EACH_KIND
def test_vmap_over_states(kind):
    plan = plan_by("", weights((4,), kind))
    many = randn(5, 6, 2, 4)

    def mixed(x):
        return _mix.apply(x, spread(plan.weight, many[0], (2,)), plan.perm)

    torch.testing.assert_close(torch.func.vmap(mixed)(many), torch.stack([*map(mixed, many)]))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@EACH_KIND
@REPEATS
def test_vmap_over_gradients(kind, repeats):
    plan = plan_by("", weights((4,), kind, batch=3), repeats=repeats, batch=3)
    x = randn(3, 2, 4, dtype=torch.float64)

    def mixed(x):
        return _mix.apply(x, spread(plan.weight, x, (2,)), plan.perm, repeats=repeats).square()

    def plain(x):
        return by_positions(x, plan.weight, plan.perm, (2,)).square()

    torch.testing.assert_close(torch.func.jacrev(mixed)(x), torch.func.jacrev(plain)(x))


@REPEATS
@pytest.mark.parametrize("kind", ["hard", "hard each"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_value_that_is_not_selected_is_not_read(kind, repeats, value):
    plan = plan_by("", weights((4,), kind), repeats=repeats)
    own = spread(plan.weight, torch.empty(6, 2, 4), (2,))
    x = randn(6, 2, 4)
    spoilt = x.masked_fill(own.expand(x.shape).logical_not(), value)  # what the row itself gives up
    mixed = _mix.apply(spoilt.requires_grad_(), own, plan.perm, repeats=repeats)
    assert torch.equal(mixed.isfinite(), torch.where(own, True, own.expand(x.shape)[plan.perm]))
    grad = randn(6, 2, 4, seed=2)
    (found,) = torch.autograd.grad(mixed, spoilt, grad)
    assert found.isfinite().all()


@EACH_KIND
@REPEATS
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_way_gives_the_same_bits(kind, repeats, way, dtype, monkeypatch):
    plan = plan_by("", weights((4, 3), kind), repeats=repeats)
    for layout in LAYOUTS.values():
        x, grad = (layout(randn(6, 5, 4, 3, dtype=dtype, seed=seed)) for seed in (1, 2))
        own = spread(plan.weight, x, (2, 3))

        def both(x=x, grad=grad, own=own):
            x = x.detach().requires_grad_()
            mixed = _mix.apply(x, own, plan.perm, repeats=repeats)
            return mixed, torch.autograd.grad(mixed, x, grad)[0]

        expected = both()
        with monkeypatch.context() as patch:
            for limit, value in WAYS[way].items():
                patch.setattr(_interpolate, limit, value)
            for one, other in zip(both(), expected, strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_large_states_need_no_memory_but_the_result(kind, channels_last):
    x, grad = (randn(16, 64, 64, 64, seed=seed) for seed in (1, 2))
    if channels_last:
        x, grad = (LAYOUTS["channels last"](one) for one in (x, grad))
    plan = plan_by("", weights((64, 64), kind), batch=16)
    own = spread(plan.weight, x, (2, 3))
    x.requires_grad_()
    with Costs() as forward:
        mixed = _mix.apply(x, own, plan.perm)
    with Costs() as backward:
        torch.autograd.grad(mixed, x, grad)
    for costs in (forward, backward):
        assert [size for size in costs.allocated if size > 2**20] == [x.nbytes]


@EACH_KIND
def test_the_batch_anywhere_and_a_coarser_grid(kind):
    x = randn(4, 6, 3, 8)  # (height, batch, channels, width)
    place = Place(Positions((0, 3)), (2, 2))
    plan = plan_by("", weights((2, 4), kind))
    mixed = mix_weighed(x, BatchDim(1), plan, place)
    expected = by_positions(x.movedim(1, 0), plan.weight, plan.perm, (1, 3)).movedim(0, 1)
    torch.testing.assert_close(mixed, expected)
    assert mixed.is_contiguous()


def test_tokens_after_the_patches_are_interpolated_too():
    x = randn(6, 1 + 6 + 2, 5)
    plan = plan_by("", weights((2, 3), "hard each"))
    mixed = mix_weighed(x, None, plan, Place(Positions((1,), (2, 3), 1), (1, 1)))
    share = plan.target_lam.view(-1, 1, 1)
    blended = share * x + (1 - share) * x[plan.perm]
    patches = by_positions(x[:, 1:7].unflatten(1, (2, 3)), plan.weight, plan.perm, (1, 2))
    torch.testing.assert_close(mixed[:, 1:7], patches.flatten(1, 2))
    torch.testing.assert_close(mixed[:, [0, 7, 8]], blended[:, [0, 7, 8]])


# Models


def sides(model, layer, x):
    if layer != "input" and hasattr(model, "GRID"):
        return model.GRID
    h = x
    for name, stage in model.stages():
        h = stage(h)
        if name == layer:
            return [h.shape[dim] for dim in model.dims(layer)]
    raise AssertionError(layer)


@EACH_KIND
@REPEATS
@pytest.mark.parametrize(("name", "layer"), PLACES)
def test_output_and_gradients_are_those_of_the_hand_split_model(name, layer, kind, repeats):
    model, oracle = build(name), build(name)
    x = example(model)
    own = weights(sides(oracle, layer, x), kind)
    plan = plan_by(layer, own, repeats=repeats)
    mixup = ManifoldMixup(model, [layer], example=x, blend=Cut())
    with mixup.using(plan):
        output = model(x)
    mixup.wrap(nn.CrossEntropyLoss())(output, TARGET).backward()
    expected = hand_split(oracle, x, plan)
    soft = labels(TARGET, plan)
    torch.testing.assert_close(MixedTarget(TARGET, plan).soft(CLASSES), soft)
    nn.functional.cross_entropy(expected, soft).backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(model), gradients(oracle))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("name", "layer"), PLACES)
def test_a_drawn_box_is_what_it_was_resolved_to(name, layer, per_sample):
    model, oracle = build(name), build(name)
    x = example(model)
    mixup = ManifoldMixup(model, [layer], example=x, blend=Cut(), per_sample=per_sample, seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for _ in range(4):
        loss = criterion(model(x), TARGET)
        plan = mixup.plan
        assert plan.weight.shape == (BATCH if per_sample else 1, *sides(oracle, layer, x))
        torch.testing.assert_close(plan.label, plan.weight.float().flatten(1).mean(1).squeeze())
        expected = nn.functional.cross_entropy(hand_split(oracle, x, plan), labels(TARGET, plan))
        torch.testing.assert_close(loss, expected)
        loss.backward()
        expected.backward()
    torch.testing.assert_close(gradients(model), gradients(oracle))


@pytest.mark.parametrize(("name", "layer"), PLACES)
def test_every_layer_is_proven(name, layer):
    model = build(name)
    x = example(model)
    mixup = ManifoldMixup(model, [layer], example=x, blend=Cut())
    report = mixup.verify(x)
    assert report.ok, report
