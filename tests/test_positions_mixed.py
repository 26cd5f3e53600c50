"""Mixing by positions at every layer: against hand-split models and the plain formula."""

import itertools
import math

import pytest
import torch
from torch import nn

from costs import WAYS, Costs
from manifold_mixup import (
    Box,
    Cut,
    Holes,
    ManifoldMixup,
    MixedTarget,
    MixPlan,
    PatchUp,
    _interpolate,
    _mix,
    mix,
)
from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._positions import Positions
from manifold_mixup._weigh.place import Place
from manifold_mixup._weigh.state import mix_weighed
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
THOROUGH = pytest.mark.thorough
ALIKE = [torch.float16, torch.complex128]  # mixed as others that are half, or complex
EACH_DTYPE = pytest.mark.parametrize(
    "dtype",
    [pytest.param(one, marks=THOROUGH if one in ALIKE else (), id=str(one)) for one in DTYPES],
)


def spread(own, x, dims):
    shape = [len(own)] + [1] * (x.ndim - 1)
    for axis, dim in enumerate(dims):
        shape[dim] = own.shape[1 + axis]
    return own.view(shape)


# The operation


@EACH_KIND
@REPEATS
@EACH_DTYPE
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


def require_derivatives(mixed, x):
    """Assert the first and second derivatives, and that both modes agree."""
    assert torch.autograd.gradcheck(mixed, x)
    assert torch.autograd.gradgradcheck(mixed, x)
    tangent = randn(*x.shape, dtype=torch.float64, seed=3)
    _, forward = torch.func.jvp(mixed, (x.detach(),), (tangent,))
    jacobian = torch.autograd.functional.jacobian(mixed, x.detach())
    torch.testing.assert_close(forward, torch.tensordot(jacobian, tangent, x.ndim))


# Each kind once.
DERIVED = {False: ("hard", "soft each"), True: ("hard each", "soft")}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(
    ("repeats", "kind"),
    [
        pytest.param(repeats, kind, marks=() if kind in DERIVED[repeats] else THOROUGH)
        for repeats in (False, True)
        for kind in KINDS
    ],
)
def test_higher_derivatives(kind, repeats):
    plan = plan_by("", weights((4,), kind, batch=3), repeats=repeats, batch=3)
    x = randn(3, 2, 4, dtype=torch.float64).requires_grad_()

    def mixed(x):
        return _mix.apply(x, spread(plan.weight, x, (2,)), plan.perm, repeats=repeats).sin()

    require_derivatives(mixed, x)


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


@pytest.mark.parametrize("kind", ["hard", "hard each"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_row_by_row_neither(kind, value, dtype, monkeypatch):
    """Weights of 0 and 1 make NaN of it, which is found; bits do not."""
    monkeypatch.setattr(_interpolate, "_SHARE", 0)
    plan = plan_by("", weights((4,), kind))
    own = spread(plan.weight, torch.empty(6, 2, 4), (2,))
    x, grad = randn(6, 2, 4, dtype=dtype), randn(6, 2, 4, dtype=dtype, seed=2)
    spoilt = x.masked_fill(own.expand(x.shape).logical_not(), value)
    mixed = _mix.apply(spoilt.requires_grad_(), own, plan.perm)
    expected = torch.where(own, spoilt, spoilt[plan.perm])
    torch.testing.assert_close(mixed, expected, equal_nan=True, rtol=0, atol=0)
    given = ~own.expand(x.shape)[plan.perm.argsort()]
    dropped = ~own & ~given  # of the gradient, what neither a row nor its partner takes
    spoilt_grad = grad.masked_fill(dropped, value)
    (found,) = torch.autograd.grad(mixed, spoilt, spoilt_grad)
    by_hand = torch.where(own, spoilt_grad, 0) + torch.where(
        given, spoilt_grad[plan.perm.argsort()], 0
    )
    torch.testing.assert_close(found, by_hand, equal_nan=True, rtol=0, atol=0)


def test_differences_that_overflow_are_taken_exactly(monkeypatch):
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([[largest, -largest], [-largest, largest]])
    own, perm = torch.tensor([[True, False]]), torch.tensor([1, 0])
    for share in (0, 2**15):
        monkeypatch.setattr(_interpolate, "_SHARE", share)
        assert torch.equal(_mix.apply(x, own, perm), torch.where(own, x, x[perm]))


def test_infinite_numbers_of_both_signs_are_taken(monkeypatch):
    x = torch.tensor([[torch.inf, 1.0, -torch.inf], [2.0, 3.0, 4.0]])
    own, perm = torch.tensor([[True, False, True]]), torch.tensor([1, 0])
    for share in (0, 2**15):
        monkeypatch.setattr(_interpolate, "_SHARE", share)
        assert torch.equal(_mix.apply(x, own, perm), torch.where(own, x, x[perm]))


BOXES = {
    "inside": (slice(1, 3), slice(0, 2)),
    "one position": (slice(3, 4), slice(2, 3)),
    "all": (slice(None), slice(None)),
    "none": (slice(0, 0), slice(0, 0)),
}


@REPEATS
@pytest.mark.parametrize("box", BOXES)
@EACH_DTYPE
def test_a_box_of_small_rows_is_copied(box, repeats, dtype):
    weight = torch.ones(1, 4, 3, dtype=torch.bool)
    weight[0][BOXES[box]] = False
    plan = plan_by("", weight, repeats=repeats)
    for layout in LAYOUTS.values():
        x, grad = (layout(randn(6, 5, 4, 3, dtype=dtype, seed=seed)) for seed in (1, 2))
        own = spread(plan.weight, x, (2, 3))
        x = x.detach().requires_grad_()
        mixed = _mix.apply(x, own, plan.perm, repeats=repeats)
        assert torch.equal(mixed, torch.where(own, x, x[plan.perm]))
        (found,) = torch.autograd.grad(mixed, x, grad)
        (wanted,) = torch.autograd.grad(torch.where(own, x, x[plan.perm]), x, grad)
        torch.testing.assert_close(found, wanted)


def test_rows_with_one_box_of_positions_between_them_are_no_box():
    """The false positions are a box of rows too, but each row has partners of its own."""
    weight = torch.ones(6, 4, 3, dtype=torch.bool)
    weight[2:4, 1:3] = False
    plan = plan_by("", weight)
    x = randn(6, 20, 4, 3)  # many channels, of which the weight is a small part
    own = spread(plan.weight, x, (2, 3))
    assert torch.equal(_mix.apply(x, own, plan.perm), torch.where(own, x, x[plan.perm]))


# λ inside of some features only


def within(*features, seed=4):
    return torch.rand(1, *features, generator=torch.Generator().manual_seed(seed)) > 0.4


EACH_LAM = pytest.mark.parametrize("each", [False, True], ids=["scalar", "per_sample"])


def lam_plan(each, *, repeats=False, batch=6):
    plan = plan_by("", weights((1,), "soft"), repeats=repeats, batch=batch)
    lam = torch.rand(batch, generator=torch.Generator().manual_seed(3))
    return lam if each else lam[0], plan.perm


def as_weight(lam, inside, dtype):
    return torch.where(inside, lam.to(dtype).view(-1, *[1] * (inside.ndim - 1)), 1)


@EACH_LAM
@REPEATS
@EACH_DTYPE
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inside_is_the_weight_that_is_1_elsewhere(each, repeats, dtype, layout):
    lam, perm = lam_plan(each, repeats=repeats)
    inside = within(5, 4, 3)
    x, grad = (LAYOUTS[layout](randn(6, 5, 4, 3, dtype=dtype, seed=seed)) for seed in (1, 2))
    x = x.detach().requires_grad_()
    mixed = _mix.apply(x, lam, perm, repeats=repeats, inside=inside)
    (found,) = torch.autograd.grad(mixed, x, grad)
    exact = torch.promote_types(dtype, torch.float64)
    twin, weight = x.detach().to(exact).requires_grad_(), as_weight(lam, inside, exact)
    expected = weight * twin + (1 - weight) * twin[perm]
    (wanted,) = torch.autograd.grad(expected, twin, grad.to(exact))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(mixed.to(exact), expected, rtol=2 * eps, atol=4 * eps)
    torch.testing.assert_close(found.to(exact), wanted, rtol=2 * eps, atol=8 * eps)
    assert torch.equal(*(torch.where(inside, 0, one) for one in (mixed, x)))
    assert mixed.dtype == dtype


def require_same_bits(compute, limits, monkeypatch):
    """Assert that results are the same where other limits choose another way to compute them."""
    expected = compute()
    with monkeypatch.context() as patch:
        for limit, value in limits.items():
            patch.setattr(_interpolate, limit, value)
        for one, other in zip(compute(), expected, strict=True):
            assert torch.equal(one, other)


@EACH_LAM
@REPEATS
@pytest.mark.parametrize("way", WAYS)
@EACH_DTYPE
def test_every_way_inside_gives_the_same_bits(each, repeats, way, dtype, monkeypatch):
    lam, perm = lam_plan(each, repeats=repeats)
    inside = within(5, 4, 3)
    for layout in LAYOUTS.values():
        x, grad = (layout(randn(6, 5, 4, 3, dtype=dtype, seed=seed)) for seed in (1, 2))

        def both(x=x, grad=grad):
            x = x.detach().requires_grad_()
            mixed = _mix.apply(x, lam, perm, repeats=repeats, inside=inside)
            return mixed, torch.autograd.grad(mixed, x, grad)[0]

        require_same_bits(both, WAYS[way], monkeypatch)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@EACH_LAM
@REPEATS
def test_higher_derivatives_and_vmap_inside(each, repeats):
    lam, perm = lam_plan(each, repeats=repeats, batch=3)
    inside = within(2, 4)

    def mixed(x):
        return _mix.apply(x, lam, perm, repeats=repeats, inside=inside).sin()

    x = randn(3, 2, 4, dtype=torch.float64).requires_grad_()
    require_derivatives(mixed, x)
    many = randn(5, 3, 2, 4)
    torch.testing.assert_close(torch.func.vmap(mixed)(many), torch.stack([*map(mixed, many)]))


# What it costs


@EACH_KIND
@REPEATS
@pytest.mark.parametrize("way", WAYS)
@EACH_DTYPE
def test_every_way_gives_the_same_bits(kind, repeats, way, dtype, monkeypatch):
    plan = plan_by("", weights((4, 3), kind), repeats=repeats)
    for layout in LAYOUTS.values():
        x, grad = (layout(randn(6, 5, 4, 3, dtype=dtype, seed=seed)) for seed in (1, 2))
        own = spread(plan.weight, x, (2, 3))

        def both(x=x, grad=grad, own=own):
            x = x.detach().requires_grad_()
            mixed = _mix.apply(x, own, plan.perm, repeats=repeats)
            return mixed, torch.autograd.grad(mixed, x, grad)[0]

        require_same_bits(both, WAYS[way], monkeypatch)


LARGE = (48, 12, 64, 64)
EACH = torch.linspace(0.1, 0.9, LARGE[0])
BLENDS = {
    "a box": (torch.tensor(0.4), Box((0.4, 0.6), 0.4)),
    "a box each": (EACH, Box(torch.rand(48, 3, generator=torch.Generator()), 1 - EACH.double())),
    "hard patches": (torch.tensor(0.4), Holes(5, 0.5, False, 1)),
    "soft patches": (torch.tensor(0.4), Holes(5, 0.5, True, 1)),
    "soft patches, λ each": (EACH, Holes(5, 0.5, True, 1)),
}
ROWS, ROW = LARGE[0], math.prod(LARGE[1:])


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_large_states_need_the_result_and_no_more_than_some_rows(blend, dtype, channels_last):
    lam, weight = BLENDS[blend]
    x, grad = (randn(*LARGE, dtype=dtype, seed=seed) for seed in (1, 2))
    if channels_last:
        x, grad = (LAYOUTS["channels last"](one) for one in (x, grad))
    plan = MixPlan("", lam, torch.arange(ROWS).roll(1), weight=weight)
    x.requires_grad_()
    with Costs() as forward:
        mixed = mix(x, plan, dims=(2, 3))
    with Costs() as backward:
        torch.autograd.grad(mixed, x, grad)
    for costs in (forward, backward):
        assert costs.allocated.count(x.nbytes) == 1
        rest = [size for size in costs.allocated if size < x.nbytes]
        assert len(rest) == len(costs.allocated) - 1
        if dtype == torch.float32:  # a weight of all channels for one row, or of none for each
            assert max(rest) <= x.nbytes // LARGE[1]


@pytest.mark.parametrize(
    ("blend", "forward", "backward"),
    [
        ("a box", 2, 2),  # lerp, and a sum that shows NaN
        ("a box each", 2, 3),  # backward, what the row keeps, what its partner gives, and their sum
        ("hard patches", 2, 2),
        ("soft patches", 1, 1),  # lerp
        ("soft patches, λ each", 2, 3),  # and one to put back what is outside
    ],
)
def test_operators_for_each_row(blend, forward, backward):
    """So many for each row, and few for all; the plain formula reads and writes whole states."""
    lam, weight = BLENDS[blend]
    x, grad = (randn(*LARGE, seed=seed).requires_grad_() for seed in (1, 2))
    plan = MixPlan("", lam, torch.arange(ROWS).roll(1), weight=weight)
    with Costs() as ahead:
        mixed = mix(x, plan, dims=(2, 3))
    with Costs() as back:
        torch.autograd.grad(mixed, x, grad)
    for costs, each in ((ahead, forward), (back, backward)):
        assert each * ROWS <= len(costs.operators) <= each * ROWS + 40, costs.operators


@pytest.mark.parametrize("shape", [(1, 1, 4, 3), (1, 5, 4, 3), (6, 1, 4, 3), (6, 5, 4, 3)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_weights_are_read_in_the_layout_of_the_state(layout, shape):
    """Else PyTorch takes one number at a time, which was ten times slower."""
    x, weight = LAYOUTS[layout](randn(6, 5, 4, 3)), randn(*shape, seed=3)
    of = _interpolate.of_rows(weight, x)
    for row in range(6):
        assert torch.equal(of(row).expand(5, 4, 3), weight.expand(6, 5, 4, 3)[row])
        if layout == "channels last":
            assert of(row).stride() == x[row].stride()


def test_the_memory_for_the_gradient_is_no_weight_of_the_whole_state():
    lam, weight = BLENDS["soft patches, λ each"]
    x = randn(*LARGE).requires_grad_()
    mixed = mix(x, MixPlan("", lam, torch.arange(ROWS).roll(1), weight=weight), dims=(2, 3))
    saved = [one for one in mixed.grad_fn.saved_tensors if one is not None]
    assert sum(one.nbytes for one in saved) < x.nbytes / 16


def test_patches_are_drawn_once_in_a_pass():
    model = build("maps")
    x = example(model)
    mixup = ManifoldMixup(model, ["conv1"], example=x, blend=PatchUp(block=3), seed=0)
    with Costs() as costs:
        model(x)
    assert costs.operators.count("manifold_mixup::patches") == 1
    assert mixup.plan.weight.drawn is not None


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


# Of each model the layers that differ; the others repeat these.
SOME = [
    *(("maps", layer) for layer in ("input", "conv1", "conv2", "conv3")),
    *(("tokens", layer) for layer in ("input", "block1", "block2")),
    ("time", "conv1"),
    ("volumes", "conv2"),
    ("checkpoint", "conv2"),
    ("reentrant", "conv2"),
    ("reentrant", "conv3"),
    ("channels last", "fc1"),
]


def by_place(*values, quick):
    """Return cases of all places with each of the values.

    Quick are the quick values at some places, and all values at a map and at tokens.
    """
    everything = {("maps", "conv1"), ("tokens", "block1")}
    return [
        pytest.param(
            *place,
            *value,
            marks=() if place in everything or (place in SOME and value in quick) else THOROUGH,
        )
        for place in PLACES
        for value in values
    ]


@pytest.mark.parametrize(
    ("name", "layer", "repeats", "kind"),
    by_place(
        *itertools.product((False, True), KINDS), quick=[(False, "hard"), (True, "soft each")]
    ),
)
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


@pytest.mark.parametrize(
    ("name", "layer", "per_sample"), by_place((False,), (True,), quick=[(True,)])
)
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


@pytest.mark.parametrize(("name", "layer"), by_place((), quick=[()]))
def test_every_layer_is_proven(name, layer):
    model = build(name)
    x = example(model)
    mixup = ManifoldMixup(model, [layer], example=x, blend=Cut())
    report = mixup.verify(x)
    assert report.ok, report
