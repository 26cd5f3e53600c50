"""A box of small rows is cut by copies: the bits of a selection, and its gradient."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from manifold_mixup import Box, Cut, ManifoldMixup, MixPlan, mix, sample_plan
from manifold_mixup._attach.hooks import ActivePlan
from manifold_mixup._weigh import cut
from states import randn

SHAPE = (5, 3, 7, 6)
BOXES = {
    "inside": Box((0.5, 0.4), 0.3),
    "at the border": Box((0.05, 0.95), 0.5),
    "empty": Box((0.5, 0.5), 0.0),
    "all": Box((0.5, 0.5), 1.0),
    "of one position": Box((0.5, 0.5), 0.02),
}
PERM, REPEATED = torch.tensor([1, 2, 3, 4, 0]), torch.tensor([1, 1, 0, 3, 1])
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def selected(x, box, perm):
    return torch.where(box.own(x.shape[2:])[:, None], x, x[perm])


@pytest.fixture(autouse=True)
def cuts(monkeypatch):
    """Count how often a box was cut by copies."""
    made = []
    theirs = cut.cut
    monkeypatch.setattr(cut, "cut", lambda *a, **k: made.append(1) or theirs(*a, **k))
    return made


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("perm", [PERM, REPEATED], ids=["permutation", "repeated"])
def test_it_is_the_selection(box, dtype, layout, perm, cuts):
    x, grad = (
        randn(*SHAPE, dtype=dtype, seed=seed).contiguous(memory_format=LAYOUTS[layout])
        for seed in (1, 2)
    )
    plan = MixPlan("", 0.5, perm, weight=BOXES[box])
    mixed = mix(x.requires_grad_(), plan, dims=(2, 3))
    assert cuts
    wanted = selected(x, BOXES[box], perm)
    assert torch.equal(mixed, wanted)
    assert mixed.is_contiguous(memory_format=LAYOUTS[layout])
    (ours,) = torch.autograd.grad(mixed, x, grad)
    exact = torch.promote_types(dtype, torch.float32)  # in which sums are computed
    x = x.detach().to(exact).requires_grad_()
    (theirs,) = torch.autograd.grad(selected(x, BOXES[box], perm), x, grad.to(exact))
    torch.testing.assert_close(ours, theirs.to(dtype))


@pytest.mark.parametrize("box", BOXES)
def test_its_derivatives_are_right(box):
    x = randn(3, 2, 4, 3, dtype=torch.float64).requires_grad_()
    plan = MixPlan("", 0.5, torch.tensor([1, 2, 0]), weight=BOXES[box])
    assert gradcheck(lambda x: mix(x, plan, dims=(2, 3)), x)
    assert gradgradcheck(lambda x: mix(x, plan, dims=(2, 3)), x)


def test_what_is_not_taken_has_no_effect():
    x = randn(*SHAPE)
    own = BOXES["inside"].own(SHAPE[2:])[0]
    x[0, :, own] = torch.nan  # row 4 takes the rest, the box, of row 0
    mixed = mix(x, MixPlan("", 0.5, PERM, weight=BOXES["inside"]), dims=(2, 3))
    assert mixed[1:].isfinite().all()
    assert torch.equal(mixed[0].isnan().all(0), own)


@pytest.mark.parametrize("dims", [(2, 3), (3, 2)], ids=str)
def test_the_axes_of_the_box_are_the_dimensions_in_their_order(dims, cuts):
    x, box = randn(*SHAPE), Box((0.2, 0.8), 0.2)
    mixed = mix(x, MixPlan("", 0.5, PERM, weight=box), dims=dims)
    own = box.own([SHAPE[dim] for dim in dims])[:, None]
    own = own if dims == (2, 3) else own.transpose(2, 3)
    assert cuts
    assert torch.equal(mixed, torch.where(own, x, x[PERM]))


def test_rows_that_fill_the_threads_are_selected_by_weights(cuts):
    x = randn(2, 1, 400, 400)
    plan = MixPlan("", 0.5, torch.tensor([1, 0]), weight=BOXES["inside"])
    assert torch.equal(mix(x, plan, dims=(2, 3)), selected(x, BOXES["inside"], plan.perm))
    assert not cuts


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("transform", ["vmap", "jvp"])
def test_transforms_are_selected_by_weights(transform, cuts):
    plan = MixPlan("", 0.5, PERM, weight=BOXES["inside"])
    x, other = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)

    def run(x):
        return mix(x, plan, dims=(2, 3))

    if transform == "vmap":
        found = torch.func.vmap(run)(torch.stack([x, other]))[1]
    else:
        found = torch.func.jvp(run, (x,), (other,))[1]
    torch.testing.assert_close(found, selected(other, BOXES["inside"], PERM))
    assert not cuts


def test_a_plan_of_a_pass_can_be_repeated(cuts):
    """Its positions are given as weights, as for any plan, and are known to be a box."""
    model = torch.nn.Conv2d(3, 4, 3, padding=1)
    mixup = ManifoldMixup(model, ["input"], example=randn(*SHAPE), blend=Cut(), seed=1)
    x = randn(*SHAPE)
    first = model(x)
    plan = mixup.plan
    assert plan.weight.dtype == torch.bool
    assert cuts
    plain = MixPlan(plan.layer, plan.lam, plan.perm, weight=plan.weight, label=plan.label)
    assert plain.box is None
    for same in (plan, plain):
        with mixup.using(same):
            torch.testing.assert_close(model(x), first)


def test_positions_that_the_user_wrote_into_count():
    model = torch.nn.Conv2d(3, 4, 3, padding=1)
    mixup = ManifoldMixup(model, ["input"], example=randn(*SHAPE), blend=Cut(), seed=1)
    model(randn(*SHAPE))
    plan, x = mixup.plan, randn(*SHAPE)
    before = plan.weight.clone()
    plan.weight.logical_not_()
    mixed = mix(x, plan, dims=(2, 3))
    assert torch.equal(mixed, torch.where(~before[:, None], x, x[plan.perm]))


def test_a_box_of_before_its_borders_were_kept_as_numbers():
    box = Box((0.5, 0.4), 0.3)
    del vars(box)["_numbers"]
    assert torch.equal(box.own((7, 6)), Box((0.5, 0.4), 0.3).own((7, 6)))


def test_compiled_code_does_not_see_the_box():
    """Numbers of a plan would be guarded, and every step compiled anew."""
    plan = sample_plan(4, layers=["a"], alpha=1.0, blend=Cut())
    active = ActivePlan()
    assert active.box is None
    assert plan.box is None
