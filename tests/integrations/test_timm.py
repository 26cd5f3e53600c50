"""timm's losses with mixed targets, compared with the labels of its own Mixup; timm's loop."""

import re
from pathlib import Path

import pytest
import timm
import torch
from timm import loss as losses
from timm.data import FastCollateMixup
from timm.data import Mixup as TimmMixup
from timm.data.loader import PrefetchLoader
from timm.data.mixup import mixup_target
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from manifold_mixup import Cut, MixPlan
from manifold_mixup.integrations.timm import create_mixup
from with_positions import Maps, hand_split

BATCH, CLASSES = 6, 5
LAYERS = ["input", "layer1", "layer2"]
# The compiler reads `.grad` of every tensor, which warns; here, warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
PAGE = Path(__file__).parents[2] / "docs" / "recipes" / "timm.md"


def model_of():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=CLASSES).train()


def loader(rows=18, **options):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, 32, 32, generator=generator)
    y = torch.randint(CLASSES, (rows,), generator=generator)
    return DataLoader(TensorDataset(x, y), BATCH, **options)


def tiny():
    """A model small enough to mix by hand, and its batch."""
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    x = torch.randn(BATCH, 4, generator=generator)
    return model, x, torch.randint(CLASSES, (BATCH,), generator=generator)


# timm pairs the first example with the last, the second with the second to last, and so on.
FLIP = torch.arange(BATCH).flip(0)


def mixed_by_timm(model, x, y, lam, smoothing):
    """Return the output of a model mixed after its first layer, and timm's labels for it."""
    state = model[0](x)
    weight = lam if isinstance(lam, float) else lam[:, None]
    state = weight * state + (1 - weight) * state[FLIP]
    return model[2](model[1](state)), mixup_target(y, CLASSES, weight, smoothing)


LOSSES = {
    "default": (None, lambda x, y: losses.SoftTargetCrossEntropy()(x, y)),
    "soft": (losses.SoftTargetCrossEntropy(), losses.SoftTargetCrossEntropy()),
    "smoothing": (losses.LabelSmoothingCrossEntropy(0.2), losses.SoftTargetCrossEntropy()),
    "torch": (nn.CrossEntropyLoss(label_smoothing=0.2), losses.SoftTargetCrossEntropy()),
    "bce": (losses.BinaryCrossEntropy(0.2), losses.BinaryCrossEntropy(0.0)),
    "bce sum": (
        losses.BinaryCrossEntropy(0.2, sum_classes=True),
        losses.BinaryCrossEntropy(0.0, sum_classes=True),
    ),
    "bce threshold": (
        losses.BinaryCrossEntropy(0.2, target_threshold=0.2),
        losses.BinaryCrossEntropy(0.0, target_threshold=0.2),
    ),
}
if hasattr(losses, "PolyCrossEntropy"):
    LOSSES["poly"] = (losses.PolyCrossEntropy(smoothing=0.2), losses.PolyCrossEntropy())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_a_loss_is_what_timm_makes_of_its_mixed_labels(name, mode):
    loss, on_soft_labels = LOSSES[name]
    model, x, y = tiny()
    smoothing = 0.2 if name in ("default", "soft") else 0.0
    mixup, criterion = create_mixup(
        model, ["0"], loader=[], loss=loss, mixup_mode=mode, smoothing=smoothing
    )
    criterion(model(x), y).backward()
    assert mixup.plan.lam.shape == (() if mode == "batch" else (BATCH,))
    lam = torch.tensor(0.3) if mode == "batch" else torch.linspace(0.1, 0.9, BATCH)
    with mixup.using(MixPlan("0", lam, FLIP)):
        seen = criterion(model(x), y)
    mixup.remove()
    output, soft = mixed_by_timm(model, x, y, 0.3 if mode == "batch" else lam, 0.2)
    torch.testing.assert_close(seen, on_soft_labels(output, soft))
    # In evaluation, without mixing, it is the loss of the smoothed labels.
    _, smooth = mixed_by_timm(model, x, y, 1.0, 0.2)
    torch.testing.assert_close(criterion(model(x), y), on_soft_labels(model(x), smooth))


def test_a_loss_that_smooths_dense_labels_is_given_sharp_ones():
    if not hasattr(losses.BinaryCrossEntropy(), "smooth_dense"):
        pytest.skip("this timm has no such option")
    loss = losses.BinaryCrossEntropy(0.2, smooth_dense=True)
    model, x, y = tiny()
    mixup, criterion = create_mixup(model, ["0"], loader=[], loss=loss)
    with mixup.using(MixPlan("0", torch.tensor(0.3), FLIP)):
        output = model(x)
        seen = criterion(output, y)
    torch.testing.assert_close(seen, loss(output, mixup_target(y, CLASSES, 0.3)))


def test_multi_label():
    model, x, _ = tiny()
    y = (torch.rand(BATCH, CLASSES, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    mixup, criterion = create_mixup(model, ["0"], loader=[], multi_label=True)
    with mixup.using(MixPlan("0", torch.tensor(0.3), FLIP)):
        output = model(x)
        seen = criterion(output, y)
    expected = nn.functional.binary_cross_entropy_with_logits(output, 0.3 * y + 0.7 * y[FLIP])
    torch.testing.assert_close(seen, expected)


def train(model, mixup, criterion, epochs=2, ema=None):
    """Train like timm's script; return the losses, and the layers and λ of the plans."""
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9)
    seen = []
    for _ in range(epochs):
        for x, y in loader():
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if ema is not None:
                ema.update(model)
            plan = mixup.plan
            seen.append((loss.item(), plan and (plan.layer, float(plan.lam))))
    return seen


def test_a_training_with_an_average_and_a_last_epoch_without_mixing():
    model = model_of()
    mixup, criterion = create_mixup(
        model, LAYERS, loader=loader(), mixup_alpha=0.8, mixup_off_epoch=1, smoothing=0.1, seed=0
    )
    ema = ModelEmaV3(model, decay=0.5)
    seen = train(model, mixup, criterion, ema=ema)
    mixed = [plan is not None for _, plan in seen]
    assert mixed == [True] * 3 + [False] * 3
    x, y = next(iter(loader()))
    # The averaged model has hooks that do nothing, even in train mode.
    twin = model_of()
    twin.load_state_dict(ema.module.state_dict())
    assert torch.equal(ema.module.train()(x), twin(x))
    assert mixup.plan is None
    # In the last epoch, the criterion is the plain loss of the smoothed labels.
    output = model(x)
    plain = losses.LabelSmoothingCrossEntropy(0.1)
    torch.testing.assert_close(criterion(output, y), plain(output, y))


def test_a_schedule_and_a_last_epoch_without_mixing():
    model, x, y = tiny()
    batches = [(x, y)] * 3
    mixup, criterion = create_mixup(
        model, ["0"], loader=batches, mixup_alpha=lambda step: step or None, mixup_off_epoch=2
    )
    mixed = []
    for _ in range(3):
        for x, y in batches:
            criterion(model(x), y).backward()
            mixed.append(mixup.plan is not None)
    assert mixed == [False] + [True] * 5 + [False] * 3


def test_the_share_of_batches_and_the_resumed_stream():
    def run(epochs, seed, state=None):
        model, batches = model_of(), loader()
        mixup, criterion = create_mixup(
            model, LAYERS, loader=batches, mixup_prob=0.5, seed=seed, check=False
        )
        if state is not None:
            mixup.load_state_dict(state)
        return [plan for _, plan in train(model, mixup, criterion, epochs)], mixup.state_dict()

    whole, _ = run(4, seed=0)
    assert {plan is None for plan in whole} == {True, False}
    half, state = run(2, seed=0)
    rest, _ = run(2, seed=5, state=state)
    assert half + rest == whole


@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_task_of_timm(compiled, fresh_compiler):
    task_kinds = pytest.importorskip("timm.task")
    model = model_of()
    mixup, criterion = create_mixup(model, LAYERS, loader=loader(), smoothing=0.1, seed=0)
    task = task_kinds.ClassificationTask(model, criterion, verbose=False)
    if compiled:
        task.compile(backend="eager")
    task.setup_ema(decay=0.5)
    x, y = next(iter(loader()))
    found = task(x, y)
    task.update_ema()
    plan = mixup.plan
    mixup.remove()
    twin = model_of()
    mixup, criterion = create_mixup(twin, LAYERS, loader=loader(), smoothing=0.1)
    with mixup.using(plan):
        torch.testing.assert_close(found["loss"], criterion(twin(x), y))
    assert task.get_checkpoint_state()["state_dict"].keys() == twin.state_dict().keys()


# Errors


@pytest.mark.parametrize("prefetched", [False, True])
def test_a_loader_that_mixes(prefetched):
    data = loader(collate_fn=FastCollateMixup(num_classes=CLASSES))
    if prefetched:
        data = PrefetchLoader(data, device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"already mixed.*FastCollateMixup"):
        create_mixup(model_of(), LAYERS, loader=data)


def test_batches_that_timm_mixed_in_the_loop():
    model, x, y = tiny()
    _, criterion = create_mixup(model, ["0"], loader=[])
    _, soft = TimmMixup(num_classes=CLASSES)(torch.zeros(BATCH, 3, 8, 8), y)
    with pytest.raises(ValueError, match=r"Remove timm's Mixup.*multi_label=True"):
        criterion(model(x), soft)


def test_targets_of_another_form():
    model, x, y = tiny()
    mixup, criterion = create_mixup(model, ["0"], loader=[])
    with pytest.raises(ValueError, match=r"\(batch,\) classes, but are torch.int64.*\(6, 1\)"):
        criterion(model(x), y[:, None])
    mixup.remove()
    _, criterion = create_mixup(model, ["0"], loader=[], multi_label=True)
    with pytest.raises(ValueError, match=r"\(batch, classes\) in floating point.*int64"):
        criterion(model(x), y)


@pytest.mark.parametrize(
    ("options", "error", "fragment"),
    [
        ({"mixup_mode": "pair"}, ValueError, "'batch' or 'elem', but is 'pair'"),
        ({"prob": 0.5}, TypeError, "no prob=, an argument of timm.data.Mixup: use mixup_prob="),
        ({"cutmix_minmax": (0.2, 0.8)}, TypeError, "no cutmix_minmax="),
        ({"mixup_alpha": 0.0}, ValueError, "alpha must be above 0"),
        ({"cutmix_alpha": -1.0}, ValueError, "alpha must be above 0"),
        ({"cutmix_alpha": 1.0, "blend": Cut()}, ValueError, "both say how"),
        ({"cutmix_alpha": 1.0, "mixup_switch_prob": 2}, ValueError, "mixup_switch_prob"),
        ({"mixup_prob": 2}, ValueError, "fraction of the batches"),
        ({"loss": losses.JsdCrossEntropy()}, ValueError, "JsdCrossEntropy has no mixed targets"),
        (
            {"loss": losses.LabelSmoothingCrossEntropy(), "smoothing": 0.1},
            ValueError,
            "Pass the smoothing to LabelSmoothingCrossEntropy itself",
        ),
    ],
)
def test_wrong_uses(options, error, fragment):
    model, _, _ = tiny()
    with pytest.raises(error, match=re.escape(fragment)):
        create_mixup(model, ["0"], loader=[], **options)
    assert not model._forward_hooks


def test_a_forgotten_criterion():
    model, x, y = tiny()
    create_mixup(model, ["0"], loader=[])
    with pytest.raises(RuntimeError, match="targets were not mixed"):
        nn.functional.cross_entropy(model(x), y).backward()


# The documentation


def test_the_recipes_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names = {}
    exec(blocks[0], names)
    assert names["mixup"].state_dict()["step"] == 8


@pytest.mark.parametrize(
    ("alphas", "switch", "shares"),
    [
        ((0.8, 1.0), 0.5, (0.5, 0.5)),
        ((0.8, 1.0), 0.25, (0.75, 0.25)),
        ((0.0, 1.0), 0.5, (0.0, 1.0)),
    ],
)
def test_cutmix_in_turn_as_in_timm(alphas, switch, shares):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    batch = torch.randn(8, 3, 6, 6), torch.randint(CLASSES, (8,))
    mixup, criterion = create_mixup(
        model,
        ["input", "0"],
        loader=[batch],
        mixup_alpha=alphas[0],
        cutmix_alpha=alphas[1],
        mixup_switch_prob=switch,
        smoothing=0.1,
        seed=0,
    )
    cuts = 0
    for _ in range(200):
        output = model(batch[0])
        loss = criterion(output, batch[1])
        plan = mixup.plan
        cuts += plan.weight is not None
        soft = torch.full((8, CLASSES), 0.1 / CLASSES)
        soft[torch.arange(8), batch[1]] += 0.9
        share = plan.target_lam
        wanted = share * soft + (1 - share) * soft[plan.perm]
        torch.testing.assert_close(loss, losses.SoftTargetCrossEntropy()(output, wanted))
    assert abs(cuts / 200 - shares[1]) <= 0.2 * (0 < shares[1] < 1)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_a_blend_that_cuts_is_a_loss_by_hand(mode):
    torch.manual_seed(0)
    model, by_hand = Maps(), Maps()
    classes, layers = model.head.out_features, ["input", "conv1", "conv2"]
    batch = torch.randn(BATCH, 2, 8, 8), torch.arange(BATCH) % classes
    mixup, criterion = create_mixup(
        model, layers, loader=[batch], blend=Cut(), mixup_mode=mode, smoothing=0.1, seed=0
    )
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1)
    seen = []
    for _ in range(8):
        by_hand.load_state_dict(model.state_dict())
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        plan = mixup.plan
        share = plan.weight.float().mean((1, 2))  # of the positions that each example keeps
        assert len(share) == (1 if mode == "batch" else BATCH)
        own, partner = (mixup_target(y, classes, 1.0, 0.1) for y in (batch[1], batch[1][plan.perm]))
        soft = share[:, None] * own + (1 - share[:, None]) * partner
        output = hand_split(by_hand, batch[0], plan)
        torch.testing.assert_close(loss, losses.SoftTargetCrossEntropy()(output, soft))
        seen.append((plan.layer, bool((share != 1).any())))
    assert {layer for layer, _ in seen} == set(layers)
    assert sum(cut for _, cut in seen) > 4
