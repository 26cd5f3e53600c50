"""The recipes of other methods: loss and gradients are those of the method written out by hand."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup, MixPlan

PAGE = Path(__file__).parents[1] / "docs" / "recipes" / "methods.md"
COUNT, FEATURES, CLASSES = 6, 4, 3


def recipes():
    """Return the functions of the page."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    return names


RECIPES = recipes()


def network(outputs=CLASSES, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(FEATURES, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, outputs)
        return nn.Sequential(*layers).double()


def numbers(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


X, OTHER = numbers(0, COUNT, FEATURES), numbers(1, COUNT, FEATURES)
Y = torch.arange(COUNT) % CLASSES


def by_hand(model, x, plan):
    """Return the output of a mixed pass: only these layers, and the formula of the paper."""
    lam = plan.lam.double()
    lam = lam[:, None] if lam.ndim else lam

    def mixed(h):
        return lam * h + (1 - lam) * h[plan.perm]

    h = model[1](model[0](mixed(x) if plan.layer == "input" else x))
    return model[3](model[2](mixed(h) if plan.layer == "1" else h))


def pair_loss(output, y, plan, loss=F.cross_entropy):
    lam = plan.lam.double()
    return lam * loss(output, y) + (1 - lam) * loss(output, y[plan.perm])


def assert_same(loss, model, expected, oracle):
    """Compare losses, and the gradients of two models of the same weights."""
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    theirs = torch.autograd.grad(expected, list(oracle.parameters()))
    torch.testing.assert_close(ours, theirs)
    assert all(gradient.abs().max() > 0 for gradient in theirs)


@pytest.fixture(params=["input", "1"])
def setting(request):
    """Return an attached model, its attachment, its criterion and a model that is not attached."""
    model, oracle = network(), network()
    mixup = ManifoldMixup(model, [request.param], alpha=1.0, seed=0)
    return model, mixup, mixup.wrap(nn.CrossEntropyLoss()), oracle


def test_regmixup(setting):
    model, mixup, criterion, oracle = setting
    loss = RECIPES["regmixup_loss"](model, mixup, criterion, X, Y, alpha=20.0)
    plan = mixup.plan
    assert torch.equal(plan.perm[:COUNT], torch.arange(COUNT))
    assert (plan.lam[:COUNT] == 1).all()
    half = MixPlan(plan.layer, plan.lam[-1].clone(), plan.perm[COUNT:] - COUNT)
    mixed = pair_loss(by_hand(oracle, X, half), Y, half)
    assert_same(loss, model, (F.cross_entropy(oracle(X), Y) + mixed) / 2, oracle)


def test_ict(setting):
    model, mixup, _, oracle = setting
    teacher = network()
    with torch.no_grad():
        teacher[0].weight.mul_(1.5)
    loss = RECIPES["ict_loss"](model, mixup, teacher, X)
    plan = mixup.plan
    lam, guessed = plan.lam.double(), teacher(X).softmax(1).detach()
    target = lam * guessed + (1 - lam) * guessed[plan.perm]
    expected = (by_hand(oracle, X, plan).softmax(1) - target).square().mean()
    assert_same(loss, model, expected, oracle)


def test_the_mean_teacher_of_ict():
    student, teacher = network(), network()
    with torch.no_grad():
        student[0].bias.add_(1.0)
    before = teacher[0].bias.clone()
    RECIPES["follow"](teacher, student, step=1)
    torch.testing.assert_close(teacher[0].bias, (before + student[0].bias) / 2)
    RECIPES["follow"](teacher, student, step=9999)
    expected = 0.999 * (before + student[0].bias) / 2 + 0.001 * student[0].bias
    torch.testing.assert_close(teacher[0].bias, expected)


@pytest.mark.parametrize("layer", ["input", "1"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_imix(layer, per_sample):
    """Its authors draw a λ for each example, and take the mean of the weighted losses."""
    model, oracle = network(), network()
    mixup = ManifoldMixup(model, [layer], alpha=1.0, per_sample=per_sample, seed=0)
    loss = RECIPES["imix_loss"](model, mixup, X, OTHER, temperature=0.5)
    plan, numbers = mixup.plan, torch.arange(COUNT)
    assert plan.lam.shape == ((COUNT,) if per_sample else ())
    queries = F.normalize(by_hand(oracle, X, plan), dim=1)
    logits = queries @ F.normalize(oracle(OTHER), dim=1).T / 0.5
    own, partner = (
        F.cross_entropy(logits, y, reduction="none") for y in (numbers, numbers[plan.perm])
    )
    lam = plan.lam.double()
    assert_same(loss, model, (lam * own + (1 - lam) * partner).mean(), oracle)


def test_the_discriminator_of_a_gan():
    model, oracle = network(1), network(1)
    mixup = ManifoldMixup(model, ["1"], pairs="other_class", alpha=1.0, seed=0)
    loss = RECIPES["discriminator_loss"](model, mixup, X, OTHER)
    plan = mixup.plan
    assert (plan.perm[:COUNT] >= COUNT).all()
    assert (plan.perm[COUNT:] < COUNT).all()
    output = by_hand(oracle, torch.cat([X, OTHER]), plan).flatten()
    lam = plan.lam.double()
    share = torch.cat([lam.expand(COUNT), (1 - lam).expand(COUNT)])  # of what is real in each
    expected = -(share * F.logsigmoid(output) + (1 - share) * F.logsigmoid(-output)).mean()
    assert_same(loss, model, expected, oracle)


def test_the_generator_of_a_gan_meets_a_discriminator_that_does_not_mix():
    model, oracle = network(1), network(1)
    mixup = ManifoldMixup(model, ["1"], pairs="other_class", seed=0)
    loss = RECIPES["generator_loss"](model, mixup, X)
    assert_same(loss, model, -F.logsigmoid(oracle(X)).mean(), oracle)


def test_sam(setting):
    model, mixup, criterion, oracle = setting
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    RECIPES["sam_step"](model, mixup, criterion, optimizer, X, Y, rho=0.2)
    plan = mixup.plan
    assert mixup.state_dict()["step"] == 1
    weights = list(oracle.parameters())
    first = torch.autograd.grad(pair_loss(by_hand(oracle, X, plan), Y, plan), weights)
    norm = torch.cat([gradient.flatten() for gradient in first]).norm()
    moved = copy.deepcopy(oracle)
    with torch.no_grad():
        for weight, gradient in zip(moved.parameters(), first, strict=True):
            weight.add_(gradient, alpha=0.2 / norm)
    loss = pair_loss(by_hand(moved, X, plan), Y, plan)
    second = torch.autograd.grad(loss, list(moved.parameters()))
    for ours, weight, gradient in zip(model.parameters(), weights, second, strict=True):
        torch.testing.assert_close(ours, weight - 0.1 * gradient)


def test_lbfgs(setting):
    model, mixup, criterion, oracle = setting
    ours, plain = (
        torch.optim.LBFGS(each.parameters(), lr=0.3, max_iter=4) for each in (model, oracle)
    )
    RECIPES["lbfgs_step"](model, mixup, criterion, ours, X, Y, alpha=1.0)
    plan = mixup.plan
    assert mixup.state_dict()["step"] == 0  # the stream is not drawn from

    def closure():
        plain.zero_grad()
        loss = pair_loss(by_hand(oracle, X, plan), Y, plan)
        loss.backward()
        return loss

    plain.step(closure)
    for found, expected in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_rdrop():
    model, oracle = network(dropout=0.5), network(dropout=0.5)
    mixup = ManifoldMixup(model, ["1"], alpha=1.0, seed=0)
    torch.manual_seed(5)
    loss = RECIPES["rdrop_loss"](model, mixup, mixup.wrap(nn.CrossEntropyLoss()), X, Y, weight=3.0)
    torch.manual_seed(5)
    plan = mixup.plan
    first, second = by_hand(oracle, X, plan), by_hand(oracle, X, plan)
    p, q = first.softmax(1), second.softmax(1)
    apart = ((p - q) * (p.log() - q.log())).sum(1).mean()  # both divergences
    assert apart > 0.01
    expected = (pair_loss(first, Y, plan) + pair_loss(second, Y, plan)) / 2 + 3 * apart / 2
    assert_same(loss, model, expected, oracle)


def test_distillation(setting):
    model, mixup, criterion, oracle = setting
    teacher = network()
    with torch.no_grad():
        teacher[3].weight.mul_(2)
    plain = copy.deepcopy(teacher)
    of_teacher = ManifoldMixup(teacher.eval(), mixup.layers, seed=9)
    loss = RECIPES["distillation_loss"](
        model, mixup, teacher, of_teacher, criterion, X, Y, temperature=2.0
    )
    plan = mixup.plan
    wanted = (by_hand(plain, X, plan) / 2).softmax(1).detach()
    output = by_hand(oracle, X, plan)
    soft = (wanted * (wanted.log() - (output / 2).log_softmax(1))).sum(1).mean()
    assert_same(loss, model, (pair_loss(output, Y, plan) + 4 * soft) / 2, oracle)


def test_interpolated_adversarial_training(setting):
    model, mixup, theirs, oracle = setting
    plans = []

    def noting(output, y):
        plans.append(mixup.plan)
        return theirs(output, y)

    torch.manual_seed(5)
    attack = {"epsilon": 0.3, "step": 0.1, "steps": 3}
    loss = RECIPES["adversarial_loss"](model, mixup, noting, X, Y, **attack)
    torch.manual_seed(5)
    moved = X + (torch.rand(X.shape, dtype=X.dtype) * 0.6 - 0.3)
    for _ in range(3):
        moved = moved.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(oracle(moved), Y), moved)
        moved = torch.minimum(torch.maximum(moved + 0.1 * slope.sign(), X - 0.3), X + 0.3)
    moved = moved.detach()
    assert (moved - X).abs().max() > 0.1
    clean = pair_loss(by_hand(oracle, X, plans[0]), Y, plans[0])
    hostile = pair_loss(by_hand(oracle, moved, plans[1]), Y, plans[1])
    assert_same(loss, model, (clean + hostile) / 2, oracle)
