"""mix: the plain formula to the last bit that can be had, and what can be called around it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from manifold_mixup import MixPlan, mix
from states import DTYPES, EACH_KIND, HALF, LAYOUTS, assert_rounded_once, draw, plain, randn


@given(
    batch=st.integers(1, 5),
    features=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
    per_sample=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_mix_is_the_formula(batch, features, dtype, layout, per_sample, seed):
    x = LAYOUTS[layout](randn(batch, *features, dtype=dtype, seed=seed))
    plan = draw(batch, per_sample=per_sample, seed=seed)
    before = x.clone()
    mixed = mix(x, plan)
    assert (mixed.shape, mixed.dtype) == (x.shape, x.dtype)
    assert_rounded_once(mixed, x, plan)
    assert torch.equal(x, before)


@EACH_KIND
def test_states_without_features(per_sample):
    x, plan = randn(5), draw(5, per_sample=per_sample)
    torch.testing.assert_close(mix(x, plan), plain(x, plan))


@EACH_KIND
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lam_1_lam_0_and_a_pair_of_equals_are_exact(dtype, per_sample):
    x = randn(64, 33, dtype=dtype)
    plan = draw(64, per_sample=per_sample)
    one = torch.ones_like(plan.lam)
    assert torch.equal(mix(x, MixPlan("layer", one, plan.perm)), x)
    assert torch.equal(mix(x, MixPlan("layer", 0 * one, plan.perm)), x[plan.perm])
    assert torch.equal(mix(x, MixPlan("layer", plan.lam, torch.arange(64))), x)


@EACH_KIND
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_types_are_computed_in_float32(dtype, per_sample):
    """λ is not rounded either: in bfloat16, 1 - 2⁻¹² is 1, which would remove the partner."""
    lam = torch.full((2,), 1 - 2**-12)
    plan = MixPlan("layer", lam if per_sample else lam[0], torch.tensor([1, 0]))
    x = torch.tensor([[0.0], [1024.0]], dtype=dtype)
    assert mix(x, plan)[0].item() == 0.25
    many = randn(512, 64, dtype=dtype)
    assert_rounded_once(
        mix(many, draw(512, per_sample=per_sample)), many, draw(512, per_sample=per_sample)
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("features", [1, 7, 33, 1000])
@pytest.mark.parametrize("lam", [0.0, 0.125, 0.3, 0.5, 0.7, 1.0])
def test_half_types_are_rounded_as_from_float32(dtype, features, lam):
    """They are bit-identical, in the vectorised part of a row and in its end."""
    x, perm = randn(6, features, dtype=dtype), torch.tensor([3, 0, 5, 1, 2, 4])
    wide = x.float()
    exact = wide[perm].lerp(wide, torch.tensor(lam)).to(dtype)
    assert torch.equal(mix(x, MixPlan("layer", torch.tensor(lam), perm)), exact)


@EACH_KIND
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_gradients_are_computed_in_float32(dtype, per_sample):
    x = randn(64, 16, dtype=dtype).requires_grad_()
    plan, grad = draw(64, per_sample=per_sample), randn(64, 16, dtype=dtype, seed=2)
    wide = x.detach().double().requires_grad_()
    (ours,) = torch.autograd.grad(mix(x, plan), x, grad)
    (exact,) = torch.autograd.grad(plain(wide, plan), wide, grad.double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.double(), exact, rtol=0.51 * eps, atol=1e-6)


@EACH_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(1, 3), (6,), (6, 3), (6, 2, 3, 4), (6, 0)], ids=str)
def test_gradients_are_those_of_the_formula(shape, dtype, per_sample):
    x = randn(*shape, dtype=dtype).requires_grad_()
    plan, grad = draw(shape[0], per_sample=per_sample), randn(*shape, dtype=dtype, seed=2)
    (ours,) = torch.autograd.grad(mix(x, plan), x, grad)
    (theirs,) = torch.autograd.grad(plain(x, plan), x, grad)
    torch.testing.assert_close(ours, theirs)


@EACH_KIND
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_first_and_second_derivatives(dtype, per_sample):
    x, plan = randn(4, 2, 3, dtype=dtype).requires_grad_(), draw(4, per_sample=per_sample)
    assert plan.perm.tolist() != plan.perm.argsort().tolist()  # otherwise its inverse is not tested
    assert torch.autograd.gradcheck(lambda x: mix(x, plan), x)
    assert torch.autograd.gradgradcheck(lambda x: mix(x, plan), x)
    assert torch.autograd.gradgradcheck(lambda x: mix(x, plan).abs().pow(3), x)


@EACH_KIND
def test_third_derivative(per_sample):
    x, plan = randn(4, 3, dtype=torch.float64).requires_grad_(), draw(4, per_sample=per_sample)

    def third(function):
        value = function(x, plan).pow(4).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            value = grad.sum()
        return grad

    torch.testing.assert_close(third(mix), third(plain))


@EACH_KIND
@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [((4, 3, 5, 2), torch.channels_last), ((4, 3, 5, 2, 2), torch.channels_last_3d)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_format_is_kept_forward_and_backward(shape, memory_format, dtype, per_sample):
    plan = draw(4, per_sample=per_sample)
    x = randn(*shape, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    mixed = mix(x, plan)
    grad = randn(*shape, dtype=dtype).to(memory_format=memory_format)
    (back,) = torch.autograd.grad(mixed, x, grad)
    for kept in (mixed, back):
        assert kept.is_contiguous(memory_format=memory_format)
        assert not kept.is_contiguous()
    assert mix(randn(*shape), plan).is_contiguous()
    assert_rounded_once(mixed.detach(), x.detach(), plan)


@EACH_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 1, 5, 2), (4, 3, 1, 1), (4, 1, 5, 2, 2)])
def test_a_state_that_has_both_formats_keeps_its_strides(shape, dtype, per_sample):
    x, plan = randn(*shape, dtype=dtype).requires_grad_(), draw(4, per_sample=per_sample)
    mixed = mix(x, plan)
    (back,) = torch.autograd.grad(mixed, x, torch.ones_like(mixed))
    assert mixed.stride() == back.stride() == x.stride()


def test_a_network_that_views_what_it_computed_takes_mixed_grey_images():
    convolution, x = torch.nn.Conv2d(1, 6, 3), randn(4, 1, 8, 8)
    plain, mixed = convolution(x), convolution(mix(x, draw(4)))
    assert mixed.view(4, -1).shape == plain.view(4, -1).shape


@EACH_KIND
def test_neither_state_nor_gradient_is_written_to(per_sample):
    x, plan = randn(6, 4).requires_grad_(), draw(6, per_sample=per_sample)
    grad = randn(6, 4, seed=2)
    versions = x._version, grad._version, plan.lam._version, plan.perm._version
    before, grad_before = x.detach().clone(), grad.clone()
    torch.autograd.grad(mix(x, plan), x, grad)
    assert (x._version, grad._version, plan.lam._version, plan.perm._version) == versions
    assert torch.equal(x, before)
    assert torch.equal(grad, grad_before)


@EACH_KIND
def test_the_plan_follows_the_state_to_its_device(per_sample):
    x = torch.empty(6, 4, device="meta", requires_grad=True)
    mixed = mix(x, draw(6, per_sample=per_sample))
    assert mixed.device == torch.autograd.grad(mixed.sum(), x)[0].device == x.device


def test_the_result_is_a_tensor_of_its_own():
    x = randn(2, 3)
    mixed = mix(x, MixPlan("layer", torch.tensor(1.0), torch.arange(2)))
    mixed.zero_()
    assert x.abs().min() > 0


def test_a_leaf_that_needs_no_gradient_gets_none():
    assert not mix(randn(3, 2), draw(3)).requires_grad
    with torch.no_grad():
        assert not mix(randn(3, 2).requires_grad_(), draw(3)).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(mix(randn(3, 2), draw(3)), plain(randn(3, 2), draw(3)))


# Transforms around it


@EACH_KIND
@pytest.mark.parametrize("shape", [(6, 3), (6, 2, 3, 4)], ids=str)
def test_function_transforms(shape, per_sample):
    x, plan = randn(*shape, dtype=torch.float64), draw(shape[0], per_sample=per_sample)
    several = torch.stack([x, 2 * x, x - 1], dim=1)

    def loss(function):
        return lambda x: function(x, plan).pow(2).sum()

    torch.testing.assert_close(torch.func.grad(loss(mix))(x), torch.func.grad(loss(plain))(x))
    for dim in (0, 1):
        batches = several.movedim(1, dim)
        mapped = torch.vmap(lambda x: mix(x, plan), in_dims=dim, out_dims=dim)(batches)
        torch.testing.assert_close(mapped.movedim(dim, 1)[:, 1], mix(2 * x, plan))
        grads = torch.vmap(torch.func.grad(loss(mix)), in_dims=dim)(batches)
        torch.testing.assert_close(grads[1], torch.func.grad(loss(plain))(2 * x))
    jacobian = torch.func.jacrev(lambda x: mix(x, plan))
    torch.testing.assert_close(jacobian(x), torch.func.jacrev(lambda x: plain(x, plan))(x))


# torch inverts the permutations one by one, and warns
@pytest.mark.filterwarnings("ignore:There is a performance drop.*scatter_")
@pytest.mark.parametrize("map_x", [True, False])
def test_a_plan_can_be_mapped_as_well(map_x):
    from manifold_mixup._mix import apply

    x, plans = randn(3, 4, 2), [draw(4, seed=seed) for seed in range(3)]
    lam, perm = torch.stack([p.lam for p in plans]), torch.stack([p.perm for p in plans])
    dim = 0 if map_x else None

    def slope(x, lam, perm):
        return torch.func.grad(lambda x: apply(x, lam, perm).square().sum())(x)

    rows = list(x) if map_x else [x[0]] * 3
    given = x if map_x else x[0]
    mapped = torch.vmap(apply, in_dims=(dim, 0, 0))(given, lam, perm)
    slopes = torch.vmap(slope, in_dims=(dim, 0, 0))(given, lam, perm)
    for place, plan in enumerate(plans):
        torch.testing.assert_close(mapped[place], mix(rows[place], plan))
        torch.testing.assert_close(slopes[place], slope(rows[place], plan.lam, plan.perm))


@EACH_KIND
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3)], ids=str)
def test_compiled_without_a_graph_break(shape, per_sample):
    torch.compiler.reset()
    layer = nn.Linear(shape[-1], 3)

    def step(x, plan):
        return layer(mix(x.tanh(), plan)).square()

    plan, x = draw(6, per_sample=per_sample), randn(*shape)
    if len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, expected = compiled(ours, plan), step(theirs, plan)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(
        torch.autograd.grad(output.sum(), ours), torch.autograd.grad(expected.sum(), theirs)
    )
    # another plan must not cause a recompilation
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(ours, draw(6, per_sample=per_sample, seed=9))


@EACH_KIND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64], ids=str)
def test_compiled_gradients_of_every_kind_of_number(dtype, per_sample):
    torch.compiler.reset()
    plan, x, grad = draw(6, per_sample=per_sample), randn(6, 4, dtype=dtype), randn(6, 4, seed=2)

    def step(x, plan):
        return mix(x.tanh(), plan).abs()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    ours, theirs = (
        torch.autograd.grad(function(leaf, plan), leaf, grad.to(leaf.real.dtype))
        for function, leaf in ((compiled, x.clone().requires_grad_()), (step, x.requires_grad_()))
    )
    torch.testing.assert_close(ours, theirs)


@EACH_KIND
@pytest.mark.parametrize("shape", [(6, 4, 1, 1), (6, 1, 5, 5), (6, 4, 5, 5)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_what_comes_after_may_write_in_place(shape, channels_last, per_sample):
    plan = draw(6, per_sample=per_sample)
    x = randn(*shape)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    mixed = mix(x.requires_grad_(), plan)
    expected = mixed.detach().relu()
    assert torch.equal(mixed.relu_(), expected)
    mixed.sum().backward()


def test_compiled_by_inductor():
    torch.compiler.reset()
    plan, x = draw(6, per_sample=True), randn(6, 8).requires_grad_()
    mixed = torch.compile(mix, fullgraph=True)(x, plan)
    torch.testing.assert_close(mixed, mix(x, plan))
    grad = randn(6, 8, seed=2)
    ours, theirs = (torch.autograd.grad(out, x, grad) for out in (mixed, mix(x, plan)))
    torch.testing.assert_close(ours, theirs)


@EACH_KIND
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_autocast_changes_neither_type_nor_arithmetic(dtype, per_sample):
    plan = draw(64, per_sample=per_sample)
    for x in (randn(64, 16, dtype=dtype), randn(64, 16)):
        with torch.autocast("cpu", dtype=dtype):
            mixed = mix(x, plan)
        assert torch.equal(mixed, mix(x, plan))


# Errors


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool], ids=str)
def test_numbers_with_nothing_in_between_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"{dtype}.*token ids.*embedding"):
        mix(torch.zeros(4, 2, dtype=dtype), draw(4))


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0, 4)], ids=str)
def test_another_batch_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"pairs 4 examples.*shape.*dimension 0"):
        mix(torch.zeros(shape), draw(4))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_forward_mode_derivative_is_mixed_as_the_state_is():
    x, tangent = (torch.randn(4, 3, dtype=torch.float64) for _ in range(2))
    plan = MixPlan("a", torch.tensor([0.25, 1.0, 0.0, 0.5]), torch.tensor([2, 0, 3, 1]))
    out, derivative = torch.func.jvp(lambda h: mix(h, plan).sin(), (x,), (tangent,))
    lam = plan.lam[:, None].double()
    expected = (lam * tangent + (1 - lam) * tangent[plan.perm]) * mix(x, plan).cos()
    torch.testing.assert_close(out, mix(x, plan).sin())
    torch.testing.assert_close(derivative, expected)


def test_nested_and_sparse_states_are_refused_with_the_way_out():
    plan = MixPlan("a", torch.tensor(0.5), torch.tensor([1, 0]))
    parts = [torch.randn(3, 4), torch.randn(2, 4)]
    with pytest.raises(TypeError, match=r"nested tensor .* differ in length. Pad it"):
        mix(torch.nested.nested_tensor(parts, layout=torch.jagged), plan)
    with pytest.raises(TypeError, match=r"sparse tensor of shape \(2, 4\).*to_dense"):
        mix(torch.eye(2, 4).to_sparse(), plan)
