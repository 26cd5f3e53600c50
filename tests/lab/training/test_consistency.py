"""ICT: unlabelled examples, mean teacher and loss, against the authors' algorithm by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lab_runs import run as command
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.commands.compare import Options as Compare
from manifold_mixup.lab.commands.compare import prepare
from manifold_mixup.lab.data.augment import Augment
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.check import check_recipe
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import provenance
from manifold_mixup.lab.training.consistency import Unlabelled, ramp, teach
from manifold_mixup.lab.training.job import Job
from manifold_mixup.lab.training.loop import Stopped, train
from manifold_mixup.lab.training.method import check

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(plain) -> Recipe:
    ict = catalog.recipe("compare", "ict", "blobs", "mlp")
    return replace(ict, epochs=4, batch=20, lr=0.02, width=16, per_class=10)


@pytest.fixture
def few(task, run):
    """Ten labelled examples of each class, and the rest without labels."""
    return datasets.reduced(task, run)


def test_the_rest_is_unlabelled(task, run, few):
    plain = datasets.reduced(task, replace(run, ict_weight=0.0))
    assert torch.equal(few.x, plain.x)
    assert torch.equal(few.y, plain.y)
    assert plain.unlabelled is None
    both = torch.cat([few.x, few.unlabelled])
    assert (len(few.x), len(few.unlabelled)) == (30, 220)
    assert torch.equal(both.sort(0).values, task.x.sort(0).values)
    assert provenance.fingerprint(few) != provenance.fingerprint(plain)


def test_unlabelled_batches_depend_on_seed_rank_step_and_part_only(few):
    def draw(seed, rank, *which):
        return Unlabelled(few.unlabelled, Augment(), seed=seed, rank=rank).batch(15, *which)

    first = draw(0, 0, 3, 1)
    assert torch.equal(first, draw(0, 0, 3, 1))
    for other in (draw(1, 0, 3, 1), draw(0, 1, 3, 1), draw(0, 0, 4, 1), draw(0, 0, 3, 0)):
        assert not torch.equal(first, other)
    assert all((row == few.unlabelled).all(1).any() for row in first)


def test_unlabelled_images_are_augmented():
    x = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8)
    plain, moved = (
        Unlabelled(x, augment, seed=0, rank=0).batch(10, 0)
        for augment in (Augment(), Augment(crop=2))
    )
    assert plain.dtype == moved.dtype == torch.float32
    assert plain.shape == moved.shape
    assert not torch.equal(plain, moved)


@pytest.mark.parametrize(("epoch", "part"), [(0, math.exp(-5)), (50, math.exp(-1.25)), (100, 1.0)])
def test_the_weight_rises_as_the_authors_sigmoid(epoch, part):
    """Over 100 of 400 epochs."""
    assert ramp(epoch / 400, 0.25) == pytest.approx(part)


def test_a_teacher_leaves_no_trace(task, plain):
    teacher = fresh_model(replace(plain, batch_norm=True), task).eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    logits = teach(teacher, task.x[:20])
    assert not logits.requires_grad
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not torch.equal(logits, teacher.eval()(task.x[:20]))  # statistics of the batch


@pytest.mark.parametrize("step", [0, 3, 7])
def test_a_step_is_the_authors_algorithm(few, run, step):
    """Algorithm 1, written out: labelled unmixed, unlabelled mixed with the teacher's guesses."""
    job, other = Job(run, few), Job(run, few)
    gradients = {}

    def keep(*_):
        gradients.update({n: p.grad.clone() for n, p in job.core.named_parameters()})

    for one in (job, other):  # a teacher unlike the student
        one.model.train()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in one.average.model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    job.optimizer.register_step_pre_hook(keep)
    x, y = few.x[:20], few.y[:20]
    job.step(x, y, step, sums=torch.zeros(2))
    plan = job.method.mixup.plan
    assert plan.layer == "input"

    unlabelled = job.unlabelled.batch(20, step)
    own, partner = unlabelled, unlabelled[plan.perm]
    with torch.no_grad():
        guesses = other.average.model.train()(unlabelled).softmax(1)
    weight = 100 * math.exp(-5 * max(0.0, 1 - step / (4 * 2) / 0.25) ** 2)
    with other.method.mixup.paused():
        mixed = other.core(plan.lam * own + (1 - plan.lam) * partner).softmax(1)
        known = F.cross_entropy(other.core(x), y)
    wanted = plan.lam * guesses + (1 - plan.lam) * guesses[plan.perm]
    (known + weight * (mixed - wanted).square().sum() / (20 * 3)).backward()
    for name, parameter in other.core.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_the_teacher_follows_the_student(few, run):
    job = Job(run, few)
    job.model.train()
    expected = None
    for step in range(5):
        job.step(few.x[:20], few.y[:20], step, sums=torch.zeros(2))
        student = job.core.head.weight.detach().clone()
        decay = min(1 - 1 / (step + 1), 0.999)
        expected = student if expected is None else decay * expected + (1 - decay) * student
        torch.testing.assert_close(job.average.model.head.weight, expected)


def test_stopped_anywhere_it_ends_in_the_same_bits(few, run, tmp_path):
    run = replace(run, dropout=0.2, batch_norm=True, accumulate=2)
    whole = train(run, few)
    left = iter(range(5))
    with pytest.raises(Stopped):
        train(run, few, folder=tmp_path, stop=lambda: next(left, None) is None)
    assert train(run, few, folder=tmp_path).weights == whole.weights


def test_on_the_command_line(npz, tmp_path, capsys):
    options = ("--recipe", "compare", "--data", npz, "--model", "mlp", "--device", "cpu")
    own = ("--mixing", "ict", "--epochs", 1, "--out", tmp_path / "run")
    assert command("train", *options, *own, "--per-class", 5) == 0
    assert "(15 training, 80 test examples)" in " ".join(capsys.readouterr().out.split())
    assert command("train", *options, *own) == 2
    assert "ICT learns from examples without labels, but all 250" in capsys.readouterr().err


def test_a_comparison_gives_every_method_the_same_labels(npz, tmp_path):
    options = Compare(data=str(npz), methods=("none", "ict"), examples=40, seeds=1, out=tmp_path)
    data = prepare(options).data
    assert (len(data.x), len(data.unlabelled)) == (40, 210)


BAD = {
    "teacher": ({"ema": 0.0}, "ema is 0. Set it"),
    "weight": ({"ict_weight": -1.0}, "ict_weight is -1.0. Expected a finite number"),
    "ramp": ({"ict_ramp": 0.0}, "ict_ramp is 0.0. Expected more than 0"),
    "attack": ({"pgd_steps": 7}, "examples without labels, but pgd_steps is 7"),
    "pairs": ({"method": "x", "pairs": "same_class"}, "but pairs is 'same_class'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(run, case):
    settings, reason = BAD[case]
    with pytest.raises(ValueError, match=reason):
        check_recipe(replace(run, **settings))


def test_all_examples_labelled_is_refused_before_training(task, run):
    with pytest.raises(ValueError, match="--per-class 25"):
        check(run, task)
