"""The life of an attachment: attach, look, pause, replace, resume, export, remove."""

import copy
import warnings
from functools import partial

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from manifold_mixup import ManifoldMixup
from training import hooks_on, stream, train_step
from zoo import BATCH, CLASSES, TARGET, build, example, hand_split, plan_at

LAYERS = ["input", "fc1", "fc2"]


def test_layers_stand_in_order_of_execution_however_they_were_named():
    model = build("residual")
    mixup = ManifoldMixup(model, ["layer2", model.layer1, "input", "layer?.0", "layer2"])
    assert mixup.layers == ("input", "layer1.0", "layer1", "layer2") or mixup.layers == (
        "input",
        "layer1",
        "layer1.0",
        "layer2",
    )
    stream(mixup, model, 1)
    assert mixup.layers == ("input", "layer1.0", "layer1", "layer2")


def test_one_name_and_one_module_need_no_list():
    assert ManifoldMixup(build("mlp"), "fc1").layers == ("fc1",)
    model = nn.Sequential(nn.Sequential(), nn.Linear(2, 2))
    assert ManifoldMixup(model, model[0]).layers == ("0",), "an empty module is falsy"


def test_layers_are_chosen_from_an_example():
    model = build("residual")
    mixup = ManifoldMixup(model, example=example(model))
    assert mixup.layers[0] == "input"
    assert len(mixup.layers) == 3
    assert mixup.verify(example(model)).ok


@pytest.mark.parametrize("check", [True, False])
def test_verify_before_training_knows_what_a_layer_mixes(check):
    model = build("lstm")
    mixup = ManifoldMixup(model, ["input", "lstm"], check=check)
    assert mixup.verify(example(model)).ok, str(mixup.verify(example(model)))
    mixup.assert_verified(example(model))


def test_assert_verified_names_the_layer_that_is_bypassed():
    model = build("residual")
    mixup = ManifoldMixup(model, ["layer1", "layer1.0.fc"])
    with pytest.raises(ValueError, match=r"layer1.0.fc +failed"):
        mixup.assert_verified(example(model))


@pytest.mark.parametrize(
    "as_example", [lambda x: x, lambda x: (x,), lambda x: {"x": x}], ids=["tensor", "tuple", "dict"]
)
def test_an_example_is_one_batch_in_any_form(as_example):
    model = build("mlp")
    assert ManifoldMixup(model, example=as_example(example(model))).layers


def test_the_notebook_cell_run_twice_says_what_to_do():
    model = build("mlp")
    first = ManifoldMixup(model, LAYERS)
    with pytest.raises(RuntimeError, match=r"ManifoldMixup\(layers=.*replace=True"):
        ManifoldMixup(model, LAYERS)
    stream(first, model, 1)  # the failed call changed nothing

    second = ManifoldMixup(model, LAYERS, replace=True, seed=3)
    stream(second, model, 1)
    with pytest.raises(RuntimeError, match="another ManifoldMixup has replaced this one"):
        first.wrap(nn.CrossEntropyLoss())(model(example(model)), TARGET)
    assert hooks_on(model) == len(LAYERS) - 1 + 2


@pytest.mark.parametrize("part", ["encoder", "whole"])
def test_a_part_and_the_whole_cannot_both_be_attached(part):
    whole = nn.Sequential()
    whole.add_module("encoder", build("mlp"))
    first, second = (whole.encoder, whole) if part == "encoder" else (whole, whole.encoder)
    ManifoldMixup(first, "encoder.fc1" if first is whole else "fc1")
    with pytest.raises(RuntimeError, match=r"already has ManifoldMixup\(.* attached"):
        ManifoldMixup(second, "encoder.fc2" if second is whole else "fc2")


def test_a_failed_replacement_leaves_the_first_in_place():
    model = build("mlp")
    first = ManifoldMixup(model, LAYERS, seed=0)
    for bad in ({"layers": ["fc9"]}, {"layers": LAYERS, "alpha": -1.0}):
        with pytest.raises(ValueError, match=r"fc9|alpha"):
            ManifoldMixup(model, replace=True, **bad)
    assert all(stream(first, model))


def test_remove_after_an_exception_in_the_forward_pass():
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", seed=0, check=False)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(BATCH, 99))
    # The pass has ended: a direct call of a layer is not mixed.
    h = torch.randn(BATCH, 5)
    with torch.no_grad():
        assert torch.equal(model.fc1(h), nn.functional.linear(h, model.fc1.weight, model.fc1.bias))
    mixup.remove()
    assert hooks_on(model) == 0
    mixup.remove()  # removing twice is not an error


def test_after_an_interrupt_from_the_keyboard_an_evaluated_part_is_not_mixed():
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", seed=0)
    x = example(model)
    train_step(mixup, model, x)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.fc3.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(x)
    handle.remove()
    model.eval()  # and evaluate the features
    assert torch.equal(model.fc1(x), nn.functional.linear(x, model.fc1.weight, model.fc1.bias))
    model.train()
    assert train_step(mixup, model, x) is not None


def test_leaving_the_context_removes_also_after_an_exception():
    model = build("mlp")
    with pytest.raises(KeyError), ManifoldMixup(model, "fc1"):
        raise KeyError
    assert hooks_on(model) == 0


def test_after_removal_a_wrapped_criterion_is_the_plain_one():
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", alpha=2.0)
    plain, x = nn.CrossEntropyLoss(), example(model)
    wrapped = mixup.wrap(plain)
    mixup.remove()
    output = model(x)
    assert wrapped(output, TARGET) == plain(output, TARGET)
    assert repr(mixup).endswith("removed)")


def test_no_mixing_in_eval_mode_without_gradients_or_when_paused():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, plain = example(model), build("mlp")(example(model))
    with torch.no_grad():
        assert torch.equal(model(x), plain)
    with mixup.paused():
        with mixup.paused():
            pass
        assert torch.equal(model(x), plain)
    assert torch.equal(model.eval()(x), plain)
    assert mixup.state_dict()["step"] == 0


def test_the_plan_is_that_of_the_latest_training_pass_or_of_using():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, given = example(model), plan_at("fc1")
    assert mixup.plan is None
    trained = train_step(mixup, model, x)
    model.eval()(x)
    assert mixup.plan is trained
    with mixup.using(given):
        model(x)
    assert mixup.plan is given
    with mixup.paused():
        model.train()(x)
    assert mixup.plan is None
    train_step(mixup, model, x)
    mixup.remove()
    assert mixup.plan is None


def test_update_bn_sees_clean_batches():
    model, oracle = build("conv"), build("conv")
    batches = [torch.randn(BATCH, 2, 5, 5) for _ in range(3)]
    ManifoldMixup(model, ["input", "conv1"])
    update_bn(batches, model)
    update_bn(batches, oracle)
    torch.testing.assert_close(dict(model.named_buffers()), dict(oracle.named_buffers()))


def test_monte_carlo_dropout_is_left_alone():
    model = nn.Sequential(nn.Linear(5, 64), nn.Dropout(), nn.Linear(64, 3))
    mixup = ManifoldMixup(model, ["0"])
    x = torch.randn(BATCH, 5)
    torch.manual_seed(0)
    with torch.no_grad():
        sampled = model(x)
    mixup.remove()
    torch.manual_seed(0)
    assert torch.equal(model(x), sampled)


def test_differential_privacy_is_warned_of_once():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    mixup = ManifoldMixup(model, ["1"], seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    criterion(model(x), y).backward()
    for parameter in model.parameters():
        parameter.grad_sample = None  # as Opacus does, before it computes them
    with mixup.paused():
        model(x)
    with pytest.warns(UserWarning, match="the privacy that is reported does not hold") as warned:
        criterion(model(x), y)
    criterion(model(x), y)
    assert [one.filename for one in warned] == [__file__]


@pytest.mark.parametrize(
    "average", [AveragedModel, ModelEmaV3, copy.deepcopy], ids=["AveragedModel", "timm", "deepcopy"]
)
def test_averages_of_the_weights_come_back_unattached(average):
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    twin = average(model)
    stream(mixup, model, 3)
    if hasattr(twin, "update_parameters"):
        twin.update_parameters(model)
    inner = getattr(twin, "module", twin)
    inner.train()
    x = example(model)
    assert torch.equal(inner(x), inner(x)), "two training passes differ if they are mixed"


def test_a_copied_training_module_has_a_plain_criterion():
    whole = nn.Module()
    whole.net = build("mlp")
    whole.mixup = ManifoldMixup(whole.net, LAYERS)
    whole.criterion = whole.mixup.wrap(nn.CrossEntropyLoss())
    twin = copy.deepcopy(whole)
    output = twin.net(example(twin.net))
    assert twin.criterion(output, TARGET) == nn.CrossEntropyLoss()(output, TARGET)
    assert twin.mixup.layers == whole.mixup.layers


def test_a_resumed_run_draws_what_an_uninterrupted_one_would():
    def fresh():
        model = build("mlp")
        return ManifoldMixup(model, LAYERS, p=0.7, alpha=lambda s: None if s == 4 else 1 + s), model

    torch.manual_seed(5)
    mixup, model = fresh()
    whole = stream(mixup, model, 12)
    first, model = fresh()
    head = stream(first, model, 5)
    torch.manual_seed(99)  # another process may have another global seed
    second, model = fresh()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert head + stream(second, model, 7) == whole
    assert whole[4] is None
    assert 0 < whole.count(None) < 12


def test_the_seed_is_the_global_one_unless_given():
    plans = []
    for manual, seed in ((1, None), (1, None), (2, None), (2, 1)):
        torch.manual_seed(manual)
        model = build("mlp")
        plans.append(stream(ManifoldMixup(model, LAYERS, seed=seed), model))
    assert plans[0] == plans[1] == plans[3] != plans[2]


@pytest.mark.parametrize(
    "state", [{}, [], "x", {"seed": 1}, {"seed": 1, "step": "2"}, {"step": 1, "x": 2}]
)
def test_a_foreign_state_is_refused_and_changes_nothing(state):
    mixup = ManifoldMixup(build("mlp"), LAYERS, seed=0)
    with pytest.raises(ValueError, match="seed and step"):
        mixup.load_state_dict(state)
    assert mixup.state_dict() == {"seed": 0, "step": 0, "stream": 2}


def test_a_state_of_before_the_second_stream_goes_on_with_the_first():
    plans = []
    for state in ({"seed": 3, "step": 1}, {"seed": 3, "step": 1, "stream": 1}):
        model = build("mlp")
        mixup = ManifoldMixup(model, LAYERS, seed=0)
        mixup.load_state_dict(state)
        plans.append(stream(mixup, model))
        assert mixup.state_dict()["stream"] == 1
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=3)
    stream(mixup, model, 1)
    assert plans[0] == plans[1] != stream(mixup, model)


def test_a_state_of_a_later_stream_is_refused():
    mixup = ManifoldMixup(build("mlp"), LAYERS, seed=0)
    with pytest.raises(ValueError, match="of stream 3, but this version"):
        mixup.load_state_dict({"seed": 0, "step": 7, "stream": 3})
    assert mixup.state_dict() == {"seed": 0, "step": 0, "stream": 2}


def test_p_is_the_share_of_batches_that_are_mixed():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, p=0.25, seed=0)
    plans = stream(mixup, model, 400)
    assert 70 < sum(plan is not None for plan in plans) < 130


def test_using_a_plan_in_eval_mode_and_without_gradients():
    model = build("mlp").eval()
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, plan = example(model), plan_at("fc1")
    with torch.no_grad(), mixup.using(plan):
        mixed = model(x)
        loss = mixup.wrap(nn.CrossEntropyLoss())(mixed, TARGET)
    plain = nn.CrossEntropyLoss()
    expected = plan.lam * plain(mixed, TARGET) + (1 - plan.lam) * plain(mixed, TARGET[plan.perm])
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(mixed, model(x))
    assert mixup.state_dict()["step"] == 0


def test_of_using_and_paused_the_inner_one_counts():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, plan = example(model), plan_at("fc1")
    plain, mixed = build("mlp")(x), hand_split(build("mlp"), x, plan)
    with mixup.using(plan):
        with mixup.paused():
            torch.testing.assert_close(model(x), plain)
        torch.testing.assert_close(model(x), mixed)
    with mixup.paused():
        with mixup.using(plan):
            torch.testing.assert_close(model(x), mixed)
        torch.testing.assert_close(model(x), plain)
    assert mixup.state_dict()["step"] == 0


def test_using_the_plan_of_a_batch_that_was_not_mixed_mixes_nothing():
    """Optimizers such as SAM run a batch twice with the same plan: mixup.using(mixup.plan)."""
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, p=0.5, seed=0)
    criterion, x, mixed = mixup.wrap(nn.CrossEntropyLoss()), example(model), set()
    for _ in range(8):
        first = criterion(model(x), TARGET)
        step, plan = mixup.state_dict()["step"], mixup.plan
        with mixup.using(mixup.plan):
            torch.testing.assert_close(criterion(model(x), TARGET), first)
            assert mixup.plan is plan
        assert mixup.state_dict()["step"] == step
        mixed.add(plan is not None)
    assert mixed == {True, False}


def test_using_refuses_what_it_cannot_do():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS)
    with pytest.raises(ValueError, match=r"mixes at 'fc3', but the eligible layers are"):
        mixup.using(plan_at("fc3")).__enter__()
    with mixup.using(plan_at("fc1", batch=4)), pytest.raises(ValueError, match="pairs 4 examples"):
        model(example(model))


def test_using_after_removal_or_replacement_raises():
    model = build("mlp")
    first = ManifoldMixup(model, LAYERS)
    second = ManifoldMixup(model, LAYERS, replace=True)
    with pytest.raises(RuntimeError, match="has replaced this one"):
        first.using(plan_at("fc1")).__enter__()
    second.remove()
    with pytest.raises(RuntimeError, match="was removed"):
        second.using(plan_at("fc1")).__enter__()


def test_one_plan_for_several_passes_and_one_loss():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS)
    x = example(model)
    with mixup.using(plan_at("fc1")):
        output = model(x) + model(2 * x)
    mixup.wrap(nn.CrossEntropyLoss())(output, TARGET).backward()


def test_the_check_changes_nothing():
    model, oracle = build("conv"), build("conv")
    x = example(model)
    with ManifoldMixup(model, "conv2", seed=0).using(plan_at("conv2")):
        pass
    state = torch.get_rng_state()
    ManifoldMixup(oracle, "conv2", check=False, seed=0)
    mixup = ManifoldMixup(model, "conv2", replace=True, seed=0)
    torch.testing.assert_close(model(x), oracle(x), rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), oracle.state_dict(), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert mixup.plan is not None


def test_odd_partial_and_single_batches():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for rows in (7, 5, 2, 1, 1, 1, 1, 3):
        x, y = torch.randn(rows, 5), torch.randint(CLASSES, (rows,))
        output = model(x)
        assert mixup.plan.batch == rows
        loss = criterion(output, y)
        loss.backward()
        if rows == 1:
            torch.testing.assert_close(output, build("mlp")(x))
            torch.testing.assert_close(loss, nn.functional.cross_entropy(output, y))


def test_a_model_in_double_precision_and_a_criterion_that_takes_more():
    model = build("mlp").double()
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, y = (torch.randn(BATCH, n, dtype=torch.float64) for n in (5, CLASSES))
    w = torch.rand(CLASSES, dtype=torch.float64)

    def weighted(output, target, weight):
        return (weight * (output - target) ** 2).mean()

    output = model(x)
    lam, partner = mixup.plan.lam, y[mixup.plan.perm]
    expected = lam * weighted(output, y, w) + (1 - lam) * weighted(output, partner, w)
    torch.testing.assert_close(mixup.wrap(weighted)(output, y, w), expected)


def test_scripting_says_remove_first():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting itself is deprecated
        with pytest.raises(RuntimeError, match=r"remove\(\) first"):
            torch.jit.script(model)
        mixup.remove()
        torch.jit.script(model)


def test_export_in_eval_mode_works_and_holds_no_mix():
    model = build("mlp").eval()
    ManifoldMixup(model, LAYERS)
    x = example(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert not any("lerp" in target or "index" in target for target in targets)


@pytest.mark.parametrize(
    "take", [torch.export.export, torch.jit.trace, partial(torch.export.export, strict=True)]
)
@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_export_and_tracing_of_a_model_that_mixes_say_remove_first(take):
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x = example(model)
    with pytest.raises(Exception, match=r"remove\(\) first"):
        take(model, (x,))
    mixup.wrap(nn.CrossEntropyLoss())(model(x), TARGET).backward()  # training continues
    mixup.remove()
    take(model, (x,))


def test_a_part_that_another_attached_model_shares_is_named_as_that():
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    first, second = (nn.Sequential(shared, nn.Linear(5, 3)) for _ in range(2))
    mixup = ManifoldMixup(first, ["0"], seed=0)
    with pytest.raises(
        RuntimeError, match=r"another model that shares a part .* Attach once, to the"
    ):
        ManifoldMixup(second, ["0"])
    with pytest.raises(RuntimeError, match="this model already has"):
        ManifoldMixup(torch.compile(first), ["0"])
    mixup.remove()
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    with ManifoldMixup(shared, ["0"], seed=0) as mixup:  # the way out
        states = shared(x)
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        (criterion(first[1](states), y) + criterion(second[1](states), y)).backward()
