"""The losses of recipes, compared with PyTorch's own and closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manifold_mixup import MixedTarget, MixPlan
from manifold_mixup.lab.training import losses


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(9, 5, generator=generator, dtype=dtype)
    return logits.requires_grad_(), torch.arange(9) % 5


def test_softmax_bce_is_torchs_bce_of_the_softmax():
    logits, y = batch(torch.float32)
    ours = losses.SoftmaxBCE()(logits, y)
    theirs = nn.BCELoss()(logits.softmax(1), F.one_hot(y, 5).float())
    torch.testing.assert_close(ours, theirs)
    (own,), (other,) = (torch.autograd.grad(loss, logits) for loss in (ours, theirs))
    torch.testing.assert_close(own, other)


def test_of_two_classes_softmax_bce_is_the_cross_entropy():
    logits, y = torch.randn(7, 2), torch.arange(7) % 2
    torch.testing.assert_close(losses.SoftmaxBCE()(logits, y), F.cross_entropy(logits, y))


@pytest.mark.parametrize("scale", [0.0, 30.0, 3000.0])
def test_softmax_bce_and_its_gradient_are_finite_however_sure_the_model_is(scale):
    logits = (scale * torch.eye(4)).requires_grad_()
    wrong, right = (torch.arange(4) + 1) % 4, torch.arange(4)
    for y in (wrong, right):
        loss = losses.SoftmaxBCE()(logits, y)
        (slope,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert slope.isfinite().all()
    # As in PyTorch, logarithms are at least -100; two of four classes are wrong.
    if scale == 3000:
        assert losses.SoftmaxBCE()(logits, wrong).item() == pytest.approx(50)


@pytest.mark.parametrize("name", ["cross_entropy", "softmax_bce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixing_the_targets_is_mixing_the_losses(name, smoothing):
    logits, y = batch()
    plan = MixPlan("input", lam=torch.tensor(0.3), perm=torch.arange(9).roll(2))
    criterion = losses.build(name, label_smoothing=smoothing)
    target = MixedTarget(y, plan)
    mixed = criterion(logits, target.soft(5).to(logits.dtype))
    torch.testing.assert_close(target.loss(criterion, logits), mixed, check_dtype=False)


@pytest.mark.parametrize("name", ["cross_entropy", "softmax_bce"])
def test_a_lam_per_sample(name):
    logits, y = batch()
    plan = MixPlan("input", lam=torch.linspace(0, 1, 9), perm=torch.arange(9).roll(2))
    criterion, target = losses.build(name), MixedTarget(y, plan)
    mixed = criterion(logits, target.soft(5).to(logits.dtype))
    torch.testing.assert_close(target.loss(criterion, logits), mixed, check_dtype=False)


def test_an_unknown_loss_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no loss 'hinge'\. Known: cross_entropy, softmax_bce"):
        losses.build("hinge")
