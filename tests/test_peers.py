"""Silent errors of other implementations, collected from many issues, with a test for each.

The comment above a test names the implementation.
"""

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan, mix, sample_plan
from manifold_mixup._draw import stream

BATCH, CLASSES = 8, 10


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(batch=BATCH, *, seed=0, per_sample=False):
    return sample_plan(
        batch, layers=["fc"], alpha=1.0, per_sample=per_sample, generator=generator(seed)
    )


def by_rows(y, plan):
    """Mix floating targets row by row."""
    lam = plan.lam.expand(plan.batch)
    return torch.stack([lam[i] * y[i] + (1 - lam[i]) * y[j] for i, j in enumerate(plan.perm)])


def copying_model(batch):
    """A model of two layers that returns its input."""
    model = nn.Sequential(nn.Linear(batch, batch, bias=False), nn.Identity())
    nn.init.eye_(model[0].weight)
    return model


# Targets


# timm Mixup: (80, 10) from (8, 10)
def test_soft_labels_keep_their_shape_and_mass():
    y, plan = torch.rand(BATCH, CLASSES, generator=generator()).softmax(1), drawn()
    soft = MixedTarget(y, plan).soft(CLASSES)
    assert soft.shape == (BATCH, CLASSES)
    torch.testing.assert_close(soft, by_rows(y, plan))
    torch.testing.assert_close(soft.sum(1), torch.ones(BATCH))


# mixup 0.2.2 SaliencyMix: (8, 1, 8, 10) with eight times the mass
def test_labels_of_classes_have_one_row_each_of_mass_one():
    y = torch.randint(CLASSES, (BATCH,), generator=generator())
    soft = MixedTarget(y, drawn()).soft(CLASSES)
    assert soft.shape == (BATCH, CLASSES)
    torch.testing.assert_close(soft.sum(1), torch.ones(BATCH))


# mixup 0.2.2 VanillaMixUp: 0.3 · class 2 + 0.7 · class 9 is class 6.9
def test_class_ids_are_not_interpolated():
    y, plan = torch.tensor([2, 9]), MixPlan("fc", torch.tensor(0.3), torch.tensor([1, 0]))
    seen = ([],)  # a list in a tuple is left alone

    def criterion(output, target):
        seen[0].append(target.tolist())
        return F.cross_entropy(output, target)

    MixedTarget(y, plan).loss(criterion, torch.zeros(2, CLASSES))
    assert seen[0] == [[2, 9], [9, 2]]


# timm Mixup takes every 1 of a multilabel target for a class of its own
def test_multilabel_targets():
    y = (torch.rand(BATCH, CLASSES, generator=generator()) > 0.5).float()
    output, plan = torch.randn(BATCH, CLASSES, generator=generator(1)), drawn()
    loss = MixedTarget(y, plan).loss(nn.BCEWithLogitsLoss(), output)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(output, by_rows(y, plan)))


# timm Mixup truncates 3.7 to class 3; torchvision raises
@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 1), (BATCH, 3)], ids=str)
def test_regression_targets_keep_their_fractions(shape):
    y, plan = 10 * torch.rand(shape, generator=generator()), drawn()
    output = torch.zeros(shape)
    loss = MixedTarget(y, plan).loss(nn.MSELoss(), output)
    torch.testing.assert_close(loss, by_rows(y, plan).square().mean())


# timm Mixup: (512, 10) from masks (8, 8, 8); torchvision raises
def test_dense_masks():
    y = torch.randint(CLASSES, (BATCH, 8, 8), generator=generator())
    output = torch.randn(BATCH, CLASSES, 8, 8, generator=generator(1))
    plan = drawn()
    mixed = MixedTarget(y, plan)
    assert mixed.soft(CLASSES).shape == (BATCH, CLASSES, 8, 8)
    expected = plan.lam * F.cross_entropy(output, y)
    expected += (1 - plan.lam) * F.cross_entropy(output, y[plan.perm])
    torch.testing.assert_close(mixed.loss(nn.CrossEntropyLoss(), output), expected)


# keras 3.15 MixUp: take(masks, perm) without an axis turns (3, 4, 4, 1) into (3, 4, 4, 3) of zeros
def test_masks_keep_their_shape_and_content():
    masks, plan = 1 + torch.rand(3, 4, 4, 1, generator=generator()), drawn(3)
    mixed = MixedTarget(masks, plan, targets="mix").soft(1)
    assert mixed.shape == (3, 4, 4, 1)
    assert mixed.min() >= 1
    torch.testing.assert_close(mixed, by_rows(masks, plan))


# kornia #4657: class 999 becomes 1000 in bfloat16
def test_classes_survive_half_precision():
    y, plan = torch.tensor([999, 257, 998, 3]), drawn(4)
    output = torch.randn(4, 1000, generator=generator()).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = MixedTarget(y, plan).loss(nn.CrossEntropyLoss(), output)
    expected = plan.lam * F.cross_entropy(output.float(), y)
    expected += (1 - plan.lam) * F.cross_entropy(output.float(), y[plan.perm])
    torch.testing.assert_close(loss.float(), expected)
    rows = MixedTarget(y, plan).soft(1000)
    assert rows[0].nonzero().flatten().tolist() == sorted({999, int(y[plan.perm[0]])})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_labels_keep_their_type_and_are_rounded_once(dtype):
    y, plan = torch.rand(BATCH, CLASSES, generator=generator()).to(dtype), drawn()
    soft = MixedTarget(y, plan).soft(CLASSES)
    assert soft.dtype == dtype
    assert torch.equal(soft, by_rows(y.double(), plan).to(dtype))


# ManifoldMixupV2 and fastai need a criterion with a loss per element
def test_the_plain_criterion_of_a_user_will_do():
    y, output = torch.randint(CLASSES, (BATCH,)), torch.randn(BATCH, CLASSES)
    for criterion in (
        nn.CrossEntropyLoss(),
        lambda o, t: F.cross_entropy(o, t) + o.square().mean(),
    ):
        plan = drawn()
        expected = plan.lam * criterion(output, y) + (1 - plan.lam) * criterion(
            output, y[plan.perm]
        )
        torch.testing.assert_close(MixedTarget(y, plan).loss(criterion, output), expected)


# timm and torchvision do not support label smoothing
def test_label_smoothing():
    y, output, plan = torch.randint(CLASSES, (BATCH,)), torch.randn(BATCH, CLASSES), drawn()
    mixed, criterion = MixedTarget(y, plan), nn.CrossEntropyLoss(label_smoothing=0.1)
    torch.testing.assert_close(
        mixed.loss(criterion, output), criterion(output, mixed.soft(CLASSES))
    )


# braindecode #1121: three targets are taken for (y_a, y_b, lam)
def test_three_targets_are_three_targets():
    y, plan = (torch.zeros(BATCH), torch.ones(BATCH), torch.rand(BATCH)), drawn()
    parts = MixedTarget(y, plan).loss(lambda output, target: target, None)
    assert len(parts) == 3
    for mixed, part in zip(parts, y, strict=True):
        torch.testing.assert_close(mixed, by_rows(part, plan))


# openmixup assumes one λ; others report the accuracy of the unmixed label
@pytest.mark.parametrize("per_sample", [False, True])
def test_accuracy_of_a_model_that_says_exactly_what_it_was_shown(per_sample):
    y, plan = torch.arange(BATCH), drawn(per_sample=per_sample)
    mixed = MixedTarget(y, plan)
    stronger = torch.maximum(plan.lam, 1 - plan.lam).expand(BATCH)
    alone = plan.perm == y
    expected = torch.where(alone, 1.0, stronger).mean()
    torch.testing.assert_close(mixed.accuracy(mixed.soft(BATCH)), expected)


# The mix


# VMT #1, YOLO #105: state and label are permuted differently. Here every row has a unique label.
@pytest.mark.parametrize("layer", ["input", "0", "1"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_state_and_label_have_the_same_partner_and_share(layer, per_sample):
    model = copying_model(BATCH)
    mixup = ManifoldMixup(model, [layer], per_sample=per_sample, seed=3)
    y = torch.arange(BATCH)
    for _ in range(3):
        output = model(torch.eye(BATCH))
        torch.testing.assert_close(output, mixup.target(y, output).soft(BATCH))
        assert not torch.equal(output, torch.eye(BATCH))


# torchbearer never mixes the input itself; REF #12 discarded its mix
def test_the_input_can_be_mixed():
    model = copying_model(BATCH)
    mixup = ManifoldMixup(model, ["input"], seed=0)
    torch.testing.assert_close(model(torch.eye(BATCH)), mix(torch.eye(BATCH), mixup.plan))


# timm: flip(0), even batches only; torchvision: roll(1)
@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_batches_of_any_size_and_partners_at_random(batch):
    model = copying_model(batch)
    mixup = ManifoldMixup(model, ["0"], seed=0)
    partners = set()
    for _ in range(20):
        output = model(torch.eye(batch))
        torch.testing.assert_close(output, mixup.target(torch.arange(batch), output).soft(batch))
        partners.add(tuple(mixup.plan.perm.tolist()))
    assert len(partners) > 5 or batch < 3


# one implementation mixes a batch of one with the rest of the previous batch
def test_a_batch_of_one_stays_as_it_is():
    model = copying_model(4)
    ManifoldMixup(model, ["0"], seed=0)
    model(torch.full((6, 4), 9.0))
    alone = torch.rand(1, 4, generator=generator())
    assert torch.equal(model(alone), alone)


# timm modifies the caller's batch
@pytest.mark.parametrize("layer", ["input", "0"])
def test_the_callers_batch_is_not_written_to(layer):
    model = nn.Sequential(nn.Linear(4, CLASSES), nn.ReLU())
    mixup = ManifoldMixup(model, [layer], seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    x, y = torch.rand(BATCH, 4), torch.rand(BATCH, CLASSES)
    before = x.clone(), y.clone(), x._version, y._version
    criterion(model(x), y).backward()
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert (x._version, y._version) == before[2:]


# USB: mixup under no_grad, so that neither loss trains the backbone
@pytest.mark.parametrize("layer", ["0", "1"])
def test_the_gradient_reaches_what_lies_before_the_mix(layer):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    mixup = ManifoldMixup(model, [layer], seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    criterion(model(torch.rand(BATCH, 4)), torch.randint(CLASSES, (BATCH,))).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


# SSB: two forward passes update BatchNorm twice
def test_batch_norm_sees_each_batch_once():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES))
    ManifoldMixup(model, ["0", "1"], seed=0)
    for _ in range(3):
        model(torch.rand(BATCH, 4))
    assert model[1].num_batches_tracked == 3


# ManifoldMixupV2: .float() and then .half(), regardless of the type
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_type_of_the_state_under_autocast(dtype):
    model = nn.Sequential(nn.Linear(4, 6), nn.Identity())
    ManifoldMixup(model, ["0"], seed=0)
    seen = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", dtype=dtype):
        model(torch.rand(BATCH, 4))
    assert seen == [dtype]


# fastai #2112: fails on several inputs
def test_a_model_of_several_inputs():
    class Two(nn.Module):
        def forward(self, image, batch):
            return image + batch["vector"]

    model, eye = Two(), torch.eye(BATCH)
    mixup = ManifoldMixup(model, ["input:image"], check=False, seed=0)
    output = model(eye, {"vector": 10 * torch.ones(BATCH, BATCH), "name": "b"})
    torch.testing.assert_close(output - 10, mix(eye, mixup.plan), atol=1e-5, rtol=0)


# composer PR #3932: height and width swapped
def test_height_is_not_width():
    x, plan = torch.rand(4, 3, 5, 7, generator=generator()), drawn(4)
    for state in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(mix(state, plan), by_rows(x, plan))


# torchbearer leaves its forward in the instance
def test_nothing_stays_after_removal():
    model = copying_model(4)
    before = [(set(vars(module)), len(module._forward_hooks)) for module in model.modules()]
    mixup = ManifoldMixup(model, ["0", "1"], seed=0)
    model(torch.eye(4))
    mixup.remove()
    assert [(set(vars(module)), len(module._forward_hooks)) for module in model.modules()] == before
    assert torch.equal(model(torch.eye(4)), torch.eye(4))


# ManifoldMixupV2, SSB: a compiled model ignores the hooks, but the labels are mixed
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler itself reads it
@pytest.mark.filterwarnings("ignore:Sequential has no forward of its own")  # PyTorch 2.10
@pytest.mark.parametrize("attached_to", ["compiled", "inner"])
def test_code_compiled_without_the_mix_mixes_once_attached(attached_to):
    torch.compiler.reset()
    model, eye = copying_model(BATCH), torch.eye(BATCH)
    compiled = torch.compile(model, backend="eager")
    compiled(eye)  # compiles a graph without a mix
    mixup = ManifoldMixup(compiled if attached_to == "compiled" else model, ["0"], seed=0)
    output = compiled(eye)
    target = mixup.target(torch.arange(BATCH), output)
    assert not torch.equal(output, eye)
    torch.testing.assert_close(target.soft(BATCH), output)
    torch.compiler.reset()


# Random numbers


# torch.distributions.Beta in float32: a standard deviation of .434 instead of .4995
def test_beta_at_an_alpha_of_a_thousandth():
    plan = sample_plan(100_000, layers=["fc"], alpha=1e-3, per_sample=True, generator=generator())
    assert plan.lam.double().std().item() == pytest.approx(stats.beta(1e-3, 1e-3).std(), rel=1e-3)
    assert plan.lam.double().mean().item() == pytest.approx(0.5, abs=0.01)


# keras-cv #1361, tensorflow/models #13490, kornia: another distribution than Beta(α, α)
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_moments_of_lam(alpha):
    lam = sample_plan(
        100_000, layers=["fc"], alpha=alpha, per_sample=True, generator=generator()
    ).lam.double()
    law = stats.beta(alpha, alpha)
    for order in (1, 2, 4):
        assert lam.pow(order).mean().item() == pytest.approx(law.moment(order), abs=5e-3)


# ManifoldMixupV2: max(λ, 1-λ); composer: min
def test_lam_lies_on_both_sides_of_one_half():
    lam = torch.stack([drawn(seed=seed).lam for seed in range(200)])
    assert 70 < int((lam < 0.5).sum()) < 130


# ManifoldMixupV2's dynamic alpha starts at Beta(0, 0), which raises
def test_a_schedule_of_alpha_from_nothing():
    model = copying_model(4)
    mixup = ManifoldMixup(model, ["0"], alpha=lambda step: step / 10 or None, seed=0)
    mixed = []
    for _ in range(3):
        model(torch.eye(4))
        mixed.append(mixup.plan is not None)
    assert mixed == [False, True, True]
    ManifoldMixup(model, ["0"], alpha=lambda step: step / 10, replace=True, seed=0)
    with pytest.raises(ValueError, match=r"alpha must be above 0 and finite, but is 0.0.*None"):
        model(torch.eye(4))


def plans_of(seed, steps=4, state=None):
    model = copying_model(4)
    mixup = ManifoldMixup(model, ["0", "1"], seed=seed)
    if state:
        mixup.load_state_dict(state)
    plans = []
    for _ in range(steps):
        model(torch.eye(4))
        plans.append((mixup.plan.layer, mixup.plan.lam.item(), mixup.plan.perm.tolist()))
    return plans, mixup.state_dict()


# torch-uncertainty: default_rng() ignores numpy's global seed; REF needs three seeds
def test_one_seed_decides_all_plans():
    first = plans_of(1)
    torch.rand(7)
    assert plans_of(1) == first
    assert plans_of(2) != first


# without seed=, the global seed that users set
def test_the_seed_of_torch_is_enough():
    torch.manual_seed(5)
    first = plans_of(None)
    torch.rand(7)
    assert plans_of(None) == first
    torch.manual_seed(6)
    assert plans_of(None) != first


# no implementation saves the state of the generator
def test_a_resumed_run_draws_what_it_would_have():
    whole, _ = plans_of(1, steps=6)
    _, state = plans_of(1, steps=2)
    assert plans_of(99, steps=4, state=state)[0] == whole[2:]


# timm with DDP: the same global generator, and so the same λ, on every rank
def test_every_rank_draws_its_own(monkeypatch):
    by_rank = []
    for rank in range(3):
        monkeypatch.setattr(stream, "_rank", lambda rank=rank: rank)
        by_rank.append(plans_of(1)[0])
    assert len({str(plans) for plans in by_rank}) == 3
    monkeypatch.setattr(stream, "_rank", lambda: 0)
    assert plans_of(2)[0] not in by_rank  # seed 2 on rank 0 is not seed 1 on rank 1
