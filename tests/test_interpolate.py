"""What mixing costs, and the ways that large states go: the same bits, and little more memory."""

import pytest
import torch

from costs import WAYS, Costs
from manifold_mixup import _interpolate, mix
from states import DTYPES, EACH_KIND, LAYOUTS, assert_rounded_once, draw, plain, randn

# Cost


@EACH_KIND
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_operator_calls_and_memory(layout, per_sample):
    x = LAYOUTS[layout](randn(8, 16, 4, 4)).requires_grad_()
    plan, grad = draw(8, per_sample=per_sample), LAYOUTS[layout](randn(8, 16, 4, 4, seed=2))
    with Costs() as forward:
        mixed = mix(x, plan)
    with Costs() as backward:
        torch.autograd.grad(mixed, x, grad)
    # gather and lerp; with channels last, also the memory of gather
    assert len(forward.operators) <= 3, forward.operators
    assert len(backward.operators) <= 9, backward.operators  # the same, plus the inverse
    for costs in (forward, backward):
        large = [size for size in costs.allocated if size >= x.nbytes]
        # what passes to the partners is scattered, if a row is the partner of several others, or
        # if a small state has a λ for each row
        scattered = plan.repeats or (per_sample and layout == "contiguous")
        copies = 2 if costs is backward and scattered else 1
        assert large == copies * [x.nbytes], costs.allocated
        assert sum(costs.allocated) - sum(large) <= 4 * plan.perm.nbytes, costs.allocated


@pytest.mark.parametrize("per_sample", [False, True], ids=["scalar", "per_sample"])
def test_the_permutation_is_inverted_once(per_sample):
    """The second derivative uses the inverse permutation of the first."""
    x, grad = randn(6, 4).requires_grad_(), randn(6, 4, seed=2).requires_grad_()
    mixed = mix(x, draw(6, per_sample=per_sample))
    with Costs() as first:
        (back,) = torch.autograd.grad(mixed, x, grad, create_graph=True)
    with Costs() as second:
        torch.autograd.grad(back, grad, x.detach())
    assert [costs.operators.count("aten::scatter_.src") for costs in (first, second)] == [1, 0]


# Large states have other code paths on the CPU


def forward_and_back(x, plan, grad):
    x = x.detach().requires_grad_()
    mixed = mix(x, plan)
    return mixed, torch.autograd.grad(mixed, x, grad)[0]


@EACH_KIND
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 7), (7, 40), (7, 5, 4, 3), (5, 2, 3, 2, 2)], ids=str)
def test_every_way_gives_the_same_bits(shape, dtype, way, per_sample, monkeypatch):
    plan = draw(shape[0], per_sample=per_sample)
    for name, layout in LAYOUTS.items():
        x, grad = layout(randn(*shape, dtype=dtype)), layout(randn(*shape, dtype=dtype, seed=2))
        expected = forward_and_back(x, plan, grad)
        with monkeypatch.context() as patch:
            for limit, value in WAYS[way].items():
                patch.setattr(_interpolate, limit, value)
            found = forward_and_back(x, plan, grad)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
            if name in ("contiguous", "channels last"):
                assert one.stride() == other.stride()


def test_rows_are_mixed_along_the_cycles_of_the_permutation():
    """The partner of a row is the next row, whose second read comes from the cache."""
    assert list(_interpolate.along_cycles([2, 0, 1, 5, 4, 3])) == [0, 2, 1, 3, 5, 4]


@pytest.mark.parametrize(
    ("threads", "numbers", "fill"),
    [(1, 2**15, False), (1, 2**15 + 1, True), (2, 2**15 + 1, True), (3, 2**16, False)],
)
def test_rows_are_mixed_one_by_one_where_all_threads_work_on_them(
    threads, numbers, fill, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert _interpolate.rows_fill_threads(torch.empty(3, numbers)) == fill


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(48, 64, 32, 32), (2048, 1500)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@EACH_KIND
def test_large_states_are_mixed_in_little_more_than_the_result(
    shape, dtype, channels_last, per_sample
):
    x, grad = (randn(*shape, dtype=dtype, seed=seed) for seed in (1, 2))
    if channels_last:
        x, grad = (LAYOUTS["channels last"](one) for one in (x, grad))
    plan = draw(shape[0], per_sample=per_sample)
    x.requires_grad_()
    with Costs() as forward:
        mixed = mix(x, plan)
    with Costs() as backward:
        torch.autograd.grad(mixed, x, grad)
    assert_rounded_once(mixed.detach(), x.detach(), plan)
    for costs in (forward, backward):
        assert costs.allocated.count(x.nbytes) == 1
        assert max(costs.allocated) == x.nbytes, costs.allocated


def test_the_formula_costs_more():
    """This shows that the test above can fail."""
    x, plan = randn(8, 16, 4, 4), draw(8)
    with Costs() as costs:
        plain(x, plan)
    assert len(costs.operators) > 2
    assert costs.allocated.count(x.nbytes) > 1
