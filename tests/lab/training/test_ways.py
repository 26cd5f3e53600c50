"""Every way of mixing trains as its definition says, and is refused where it cannot."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lab_runs import run as command
from manifold_mixup import Remix, mix
from manifold_mixup.lab.data import as_input
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.ways import CUTTING, WAYS
from manifold_mixup.lab.training.job import Job
from manifold_mixup.lab.training.loop import train
from manifold_mixup.lab.training.method import Method, check
from manifold_mixup.lab.training.mixing import class_counts

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ("input", "hidden1")
CUTS = [name for name, way in WAYS.items() if way.makes.get("blend") in CUTTING]


def named(way, data, model="mlp"):
    run = catalog.recipe("compare", way, data.name, model)
    return replace(run, epochs=2, batch=50, width=8)


def plans(run, data, *, steps=8):
    """Return the plan of each of a few steps, with the targets of the step."""
    job, found = Job(run, data), []
    job.model.train()
    for k, (x, y) in enumerate(job.loader.epoch(1)):
        if k == steps:
            break
        job.step(x, y, k, sums=torch.zeros(2))
        found.append((job.method.mixup.plan, y))
    return found


@pytest.mark.parametrize("way", [name for name in WAYS if name not in ("c-mixup", "ict")])
def test_a_way_trains_to_finite_scores(task, way):
    run = replace(named(way, task, model="cnn" if way in CUTS else "mlp"), block=3)
    check(run, task)
    assert 0 <= train(run, task).last.error < 75


def test_same_class_mixes_within_classes(task):
    for plan, y in plans(named("same-class", task), task):
        assert torch.equal(y[plan.perm], y)


def test_other_class_mixes_across_classes(task):
    for plan, y in plans(named("other-class", task), task):
        assert (y[plan.perm] != y).all()


def test_remix_shares_the_label_by_the_counts_of_the_training_set(task):
    rare = (task.y != 2) | (torch.arange(len(task.y)) < 30)
    data = replace(task, x=task.x[rare], y=task.y[rare])
    counts = class_counts(data)
    assert counts == tuple((data.y == label).sum().item() for label in range(3))
    assert counts[0] >= 3 * counts[2]
    rule, seen = Remix(counts), 0
    for plan, y in plans(replace(named("remix", data), batch=20), data):
        expected = rule(plan.lam.expand(len(y)), y, y[plan.perm])
        assert torch.equal(plan.label, expected)
        seen += (expected != plan.lam).sum().item()
    assert seen


def test_held_out_examples_do_not_count_for_remix(task):
    run = replace(named("remix", task), validation=0.2)
    assert sum(class_counts(Job(run, task).trained)) == 200


def test_p_leaves_batches_unmixed(task):
    run = replace(named("manifold", task), p=0.5, batch=5)
    kinds = {plan is None for plan, _ in plans(run, task, steps=30)}
    assert kinds == {True, False}


@pytest.mark.parametrize("layer", LAYERS)
def test_regmixup_is_the_mean_of_the_clean_and_the_mixed_loss(task, plain, layer):
    """Against two passes written by hand, with the same λ and partners, in float64."""
    run = replace(plain, method="RegMixup", layers=(layer,), alpha=10.0, clean=True)
    x, y = as_input(task.x[:16]).double(), task.y[:16]
    model, ours = (fresh_model(run, task).double().train() for _ in range(2))
    method = Method(model, run)
    torch.manual_seed(3)
    loss = method.loss(model, x, y)
    loss.backward()
    plan = method.mixup.plan
    assert torch.equal(plan.lam[:16], torch.ones(16))
    lam, perm = plan.lam[16].double(), plan.perm[16:] - 16

    def mixed_at_the_layer(module, _, output):
        return lam * output + (1 - lam) * output[perm]

    clean = F.cross_entropy(ours(x), y)
    if layer == "input":
        output = ours(lam * x + (1 - lam) * x[perm])
    else:
        hook = ours.get_submodule(layer).register_forward_hook(mixed_at_the_layer)
        output = ours(x)
        hook.remove()
    blended = lam * F.cross_entropy(output, y) + (1 - lam) * F.cross_entropy(output, y[perm])
    expected = (clean + blended) / 2
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    for one, other in zip(model.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-9)


def test_regmixup_draws_by_the_step(task):
    run = replace(named("regmixup", task), layers=LAYERS)
    (first, _), (second, _) = plans(run, task, steps=2)
    assert not torch.equal(first.perm, second.perm)
    again = plans(run, task, steps=2)[1][0]
    assert torch.equal(again.perm, second.perm)
    assert torch.equal(mix(torch.eye(100), again), mix(torch.eye(100), second))


# What is refused before training


def soft(task):
    return replace(task, y=F.one_hot(task.y, 3).float())


def test_near_targets_need_numbers(task):
    with pytest.raises(ValueError, match=r"C-Mixup .* but blobs has classes"):
        check(named("c-mixup", task), task)


@pytest.mark.parametrize("way", ["same-class", "other-class", "remix"])
def test_ways_of_classes_need_classes(task, way):
    title = WAYS[way].method
    with pytest.raises(ValueError, match=f"{title} needs classes, but blobs has soft labels"):
        check(named(way, task), soft(task))


def test_cuts_are_all_ways_that_cut():
    named = {"cutmix", "manifold-cutmix", "mixup-cutmix", "patchup-soft", "patchup-hard"}
    assert {*named, "alignmixup"} <= set(CUTS)


@pytest.mark.parametrize("way", CUTS)
def test_a_perceptron_has_no_positions_to_cut(npz, way, capsys):
    options = ("--recipe", "compare", "--data", npz, "--model", "mlp", "--device", "cpu")
    assert command("train", *options, "--mixing", way) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the states of mlp have none" in err
    assert "--model cnn" in err


def test_c_mixup_on_the_command_line(npz, capsys):
    options = ("--recipe", "compare", "--data", npz, "--model", "mlp", "--device", "cpu")
    assert command("train", *options, "--mixing", "c-mixup") == 2
    assert "Use --mixing same-class" in capsys.readouterr().err


def test_a_block_larger_than_a_layer_is_refused_before_training(task):
    with pytest.raises(ValueError, match=r"block of 7\. Choose other layers, or a smaller"):
        check(named("patchup-soft", task, model="cnn"), task)


def test_an_unknown_way_gets_the_nearest_name(npz, capsys):
    assert command("train", "--data", npz, "--mixing", "cmixup") == 2
    assert "no kind of mixing 'cmixup'. Did you mean 'c-mixup'?" in capsys.readouterr().err
