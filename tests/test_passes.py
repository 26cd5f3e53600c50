"""A plan belongs to its output; either state and targets are both mixed, or there is an error."""

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, MixedTarget
from zoo import BATCH, CLASSES, TARGET, build, example, gradients, hand_split, plan_at

LAYERS = ["input", "fc1", "fc2"]
PLAIN = nn.CrossEntropyLoss()


@pytest.fixture
def attached():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    return model, mixup, mixup.wrap(nn.CrossEntropyLoss())


def expected(output, plan, target=TARGET):
    return MixedTarget(target, plan).loss(PLAIN, output)


def two_passes(model, mixup):
    passes = []
    for seed in (1, 2):
        output = model(example(model, seed))
        passes.append((output, mixup.plan))
    assert passes[0][1] is not passes[1][1]
    return passes


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_passes_then_two_losses_in_either_order(attached, order):
    model, mixup, criterion = attached
    passes = two_passes(model, mixup)
    for place in order:
        output, plan = passes[place]
        torch.testing.assert_close(criterion(output, TARGET), expected(output, plan))


def test_two_passes_before_one_backward(attached):
    model, mixup, criterion = attached
    passes = two_passes(model, mixup)
    (criterion(passes[0][0], TARGET) + criterion(passes[1][0], TARGET)).backward()
    oracle = build("mlp")
    for seed, (_, plan) in zip((1, 2), passes, strict=True):
        expected(hand_split(oracle, example(oracle, seed), plan), plan).backward()
    torch.testing.assert_close(gradients(model), gradients(oracle))


def test_two_losses_on_one_output(attached):
    model, mixup, criterion = attached
    output = model(example(model))
    other = mixup.wrap(nn.MSELoss())
    regression = torch.randn(BATCH, CLASSES)
    (criterion(output, TARGET) + other(output, regression)).backward()
    mixed = MixedTarget(regression, mixup.plan)
    torch.testing.assert_close(other(output, regression), mixed.loss(nn.MSELoss(), output))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.double(),
        lambda t: t.reshape(BATCH, CLASSES, 1).squeeze(-1),
        lambda t: t[:, :2],
        lambda t: (t * 2).log_softmax(1),
        lambda t: torch.utils.checkpoint.checkpoint(torch.tanh, t, use_reentrant=False),
    ],
    ids=["cast", "reshape", "slice", "softmax", "checkpoint"],
)
def test_what_is_computed_from_an_output_has_its_plan(attached, change):
    model, mixup, _ = attached
    passes = two_passes(model, mixup)
    for output, plan in passes:
        assert mixup.target(TARGET, change(output)).plan is plan


def test_heads_outside_of_the_model():
    whole = nn.ModuleDict({"trunk": build("mlp"), "a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    mixup = ManifoldMixup(whole["trunk"], LAYERS, seed=0)
    criterion = mixup.wrap(PLAIN)
    h = whole["trunk"](example(whole["trunk"]))
    for head in "ab":
        output = whole[head](h)
        torch.testing.assert_close(criterion(output, TARGET), expected(output, mixup.plan))


def test_an_output_in_a_dict_and_one_of_its_leaves():
    model = build("structured")
    mixup = ManifoldMixup(model, ["first", "second"], seed=0)
    output = model(example(model))
    assert mixup.target(TARGET, output).plan is mixup.plan
    assert mixup.target(TARGET, output["norm"]).plan is mixup.plan


def test_of_passes_that_build_on_each_other_the_last_one_counts(attached):
    """A state is carried over, as in truncated backpropagation through time."""
    model, mixup, criterion = attached
    first = model(example(model))
    early = mixup.plan
    second = model(example(model, 2) + first.mean(1, keepdim=True))
    assert mixup.target(TARGET, second).plan is mixup.plan is not early
    (criterion(first, TARGET) + criterion(second, TARGET)).backward()


def test_a_model_of_one_operator_that_was_not_mixed():
    model = nn.Linear(5, CLASSES)
    mixup = ManifoldMixup(model, "input", seed=0)
    with mixup.paused():
        output = model(torch.randn(BATCH, 5))
    assert mixup.wrap(PLAIN)(output, TARGET) == PLAIN(output, TARGET)


def test_an_intermediate_of_the_pass_has_its_plan(attached):
    model, mixup, _ = attached
    kept = []
    model.fc2.register_forward_hook(lambda module, args, output: kept.append(output))
    first = model(example(model))
    plan = mixup.plan
    model(example(model))
    assert mixup.target(TARGET, kept[0]).plan is plan
    assert len(kept) == 2, "the check of the layers ran a hook of the user"
    del first


def test_a_pass_that_was_not_mixed_has_plain_targets(attached):
    model, mixup, criterion = attached
    with mixup.paused():
        clean = model(example(model))
    mixed = model(example(model))
    assert criterion(clean, TARGET) == PLAIN(clean, TARGET)
    torch.testing.assert_close(criterion(mixed, TARGET), expected(mixed, mixup.plan))


def test_an_output_of_another_model_raises(attached):
    model, _, criterion = attached
    model(example(model))
    foreign = build("mlp")(example(model))
    with pytest.raises(RuntimeError, match="leads to no forward pass of the attached model"):
        criterion(foreign, TARGET)


def test_an_output_of_several_passes_raises(attached):
    model, mixup, criterion = attached
    (first, _), (second, _) = two_passes(model, mixup)
    with pytest.raises(RuntimeError, match="several forward passes"):
        criterion(first + second, TARGET)


def test_an_output_without_a_graph_takes_the_latest_plan(attached):
    model, mixup, criterion = attached
    output = model(example(model)).detach()
    torch.testing.assert_close(criterion(output, TARGET), expected(output, mixup.plan))
    assert mixup.target(TARGET).plan is mixup.plan


@pytest.mark.parametrize("keep", [True, False], ids=["with their graphs", "detached at once"])
def test_detached_outputs_of_several_passes_have_the_plan_of_their_own(attached, keep):
    """This is gradient caching: all forward passes first, then losses on detached outputs."""
    model, mixup, criterion = attached
    cached, plans, graphs = [], [], []
    for seed in range(3):
        output = model(example(model, seed))
        cached.append(output.detach().requires_grad_())
        plans.append(mixup.plan)
        graphs.append(output if keep else None)
        del output
    for output, plan in zip(cached, plans, strict=True):
        torch.testing.assert_close(criterion(output, TARGET), expected(output, plan))
        assert mixup.target(TARGET, output.detach()[:, :2]).plan is plan


def test_a_detached_output_of_an_unmixed_or_evaluated_pass_has_plain_targets(attached):
    model, mixup, criterion = attached
    with mixup.paused():
        clean = model(example(model)).detach()
    evaluated = model.eval()(example(model, 1)).detach()
    model.train()(example(model, 2))
    for output in (clean, evaluated):
        assert criterion(output, TARGET) == PLAIN(output, TARGET)


def test_an_output_that_cannot_be_told_to_be_the_models_is_never_given_the_latest_plan(attached):
    model, mixup, criterion = attached
    teacher = copy.deepcopy(model).requires_grad_(False)
    output = model(example(model))
    derived = output.detach() * 2
    for mode in (teacher.train(), teacher.eval()):
        with pytest.raises(RuntimeError, match=r"no autograd graph.*torch.no_grad\(\)"):
            criterion(mode(example(model)), TARGET)
    with pytest.raises(RuntimeError, match="forward pass cannot be identified"):
        criterion(derived, TARGET)
    with pytest.raises(RuntimeError, match=r"distribution, call mixup.target\(y, output\)"):
        criterion(torch.distributions.Categorical(logits=output), TARGET)
    criterion(output, TARGET).backward()  # the plan was not lost
    assert mixup.plan is not None


def test_many_evaluated_outputs_that_are_kept_cost_no_more_than_themselves(attached):
    model, mixup, _ = attached
    with torch.no_grad():
        kept = [model.eval()(example(model)) for _ in range(200)]
    assert len(mixup._attachment.passes._memories._known) <= 2 * len(kept)
    del kept
    for _ in range(300):
        model(example(model)).detach()
    assert len(mixup._attachment.passes._memories._known) <= 300


def test_a_parameter_that_every_pass_returns_is_remembered_once():
    class Returning(nn.Linear):
        def forward(self, x):
            return super().forward(x), self.weight

    model = Returning(3, 2)
    mixup = ManifoldMixup(model, ["input"], outputs=["0"], check=False)
    for _ in range(100):
        model(torch.randn(4, 3))
    assert len(mixup._attachment.passes._memories._known) <= 40


@pytest.mark.parametrize("given", [lambda output: None, torch.Tensor.detach])
def test_a_target_of_the_latest_pass_is_claimed_without_its_graph(attached, given):
    model, mixup, _ = attached
    output = model(example(model))
    mixup.target(TARGET, given(output)).loss(PLAIN, output).backward()
    assert gradients(model)


def test_a_frozen_model_has_no_graph_and_is_mixed_all_the_same():
    model = build("mlp").requires_grad_(False)
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    output = model(example(model))
    torch.testing.assert_close(mixup.wrap(PLAIN)(output, TARGET), expected(output, mixup.plan))


def test_validation_in_train_mode_has_plain_targets(attached):
    model, _, criterion = attached
    model(example(model))
    with torch.no_grad():
        output = model(example(model))
        assert criterion(output, TARGET) == PLAIN(output, TARGET)


def test_another_models_output_under_no_grad_has_plain_targets(attached):
    model, mixup, criterion = attached
    output = model(example(model))
    with torch.no_grad():
        other = build("mlp")(example(model))
        assert criterion(other, TARGET) == PLAIN(other, TARGET)
        # the output is still known, and so is the plan of the latest pass
        torch.testing.assert_close(criterion(output, TARGET), expected(output, mixup.plan))
        assert mixup.target(TARGET).plan is mixup.plan


def test_an_evaluated_copy_has_plain_targets_after_a_training_pass(attached):
    model, _, criterion = attached
    model(example(model))
    model.eval()
    with torch.no_grad():
        output = build("mlp")(example(model))
    assert criterion(output, TARGET) == PLAIN(output, TARGET)


def test_a_criterion_before_any_forward_pass_raises(attached):
    model, _, criterion = attached
    output = torch.randn(BATCH, CLASSES, requires_grad=True)
    with pytest.raises(RuntimeError, match="no forward pass of the attached model was seen"):
        criterion(output, TARGET)
    with torch.no_grad():
        assert criterion(output, TARGET) == PLAIN(output, TARGET)
    model.eval()
    assert criterion(output, TARGET) == PLAIN(output, TARGET)


def test_backward_without_a_claimed_target_raises(attached):
    model, mixup, _ = attached
    loss = PLAIN(model(example(model)), TARGET)  # wrap was forgotten
    with pytest.raises(RuntimeError, match=r"at '\w+', but its targets were not.*wrap") as error:
        loss.backward()
    assert "mixup.target(y, output)" in str(error.value)
    assert "paused()" in str(error.value)
    mixup.wrap(PLAIN)(model(example(model)), TARGET).backward()  # the next step works


def test_a_loss_inside_the_model_raises():
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build("mlp")

        def forward(self, x, labels):
            return PLAIN(self.net(x), labels)

    model = WithLoss()
    ManifoldMixup(model, ["net.fc1"], check=False)
    with pytest.raises(RuntimeError, match="labels= passed to it"):
        model(torch.randn(BATCH, 5), TARGET).backward()


def test_an_output_in_which_no_tensor_is_found_raises_at_once():
    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build("mlp")

        def forward(self, x):
            return torch.distributions.Categorical(logits=self.net(x))

    model, x = Opaque(), torch.randn(BATCH, 5)
    mixup = ManifoldMixup(model, ["net.fc1"], check=False, seed=0)
    with pytest.raises(TypeError, match=r"'net.fc1'.*a Categorical without tensors.*dataclasses"):
        model(x)
    with mixup.paused():
        PLAIN(model(x).logits, TARGET).backward()
    model.eval()
    with mixup.using(plan_at("net.fc1")):
        model(x)  # no gradient


def test_a_forward_pass_without_backward_says_nothing(attached):
    model, mixup, criterion = attached
    for _ in range(3):
        model(example(model))
    criterion(model(example(model)), TARGET).backward()
    assert mixup.state_dict()["step"] == 4


def test_a_gradient_penalty_works_once_the_target_is_claimed(attached):
    model, _mixup, criterion = attached
    x = example(model).requires_grad_()
    output = model(x)
    with pytest.raises(RuntimeError, match="gradient penalty"):
        torch.autograd.grad(output.sum(), x, create_graph=True)
    output = model(x)
    loss = criterion(output, TARGET)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + slope.square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_adversarial_training_in_eval_mode_and_train_mode(attached):
    model, _mixup, criterion = attached
    x = example(model)
    model.eval()
    probe = x.clone().requires_grad_()
    PLAIN(model(probe), TARGET).backward()  # no mixing, so no claim is needed
    model.train()
    criterion(model(x + 0.1 * probe.grad.sign()), TARGET).backward()


def test_gradient_accumulation_adds_the_gradients_of_each_plan(attached):
    model, mixup, criterion = attached
    oracle = build("mlp")
    for seed in range(4):
        criterion(model(example(model, seed)), TARGET).backward()
        expected(hand_split(oracle, example(oracle, seed), mixup.plan), mixup.plan).backward()
    torch.testing.assert_close(gradients(model), gradients(oracle))


def test_passes_are_forgotten_with_their_graphs(attached):
    model, mixup, criterion = attached
    for _ in range(5):
        criterion(model(example(model)), TARGET).backward()
    gc.collect()
    assert len(mixup._attachment.passes._alive()) <= 1


def test_a_target_of_another_batch_size_raises_and_loses_nothing(attached):
    model, _mixup, criterion = attached
    output = model(example(model))
    with pytest.raises(ValueError, match=r"mixed 6 examples, but the target has shape \(4,\)"):
        criterion(output, TARGET[:4])
    criterion(output, TARGET).backward()


def test_targets_in_a_dict_with_a_user_criterion():
    model = build("structured")
    mixup = ManifoldMixup(model, ["input", "first", "second"], seed=0)

    def criterion(output, target):
        return PLAIN(output["logits"], target["class"]) + nn.functional.mse_loss(
            output["norm"], target["norm"]
        )

    output = model(example(model))
    target = {"class": TARGET, "norm": torch.rand(BATCH)}
    lam, perm = mixup.plan.lam, mixup.plan.perm
    partner = {name: part[perm] for name, part in target.items()}
    by_hand = lam * criterion(output, target) + (1 - lam) * criterion(output, partner)
    torch.testing.assert_close(mixup.wrap(criterion)(output, target), by_hand)


def test_a_short_training_run_learns_and_repeats_itself_to_the_bit():
    def train():
        torch.manual_seed(0)
        x = torch.randn(200, 5)
        y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        model = build("mlp")
        mixup = ManifoldMixup(model, LAYERS, alpha=1.0, seed=0)
        criterion = mixup.wrap(PLAIN)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        for step in range(60):
            rows = slice(step % 4 * 50, step % 4 * 50 + 50)
            loss = criterion(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return PLAIN(model.eval()(x), y).item(), (model(x).argmax(1) == y).float().mean().item()

    nll, accuracy = train()
    assert accuracy > 0.9
    assert nll < 0.6
    assert train() == (nll, accuracy)


def test_a_call_that_runs_no_hooks_is_named_with_the_way_out():
    class Direct(nn.Sequential):
        def __call__(self, x):
            return self.forward(x)

    model = Direct(nn.Linear(4, 8), nn.Linear(8, 3))
    mixup = ManifoldMixup(model, ["0"], check=False)
    with pytest.raises(RuntimeError, match=r"Direct replaces nn.Module.__call__, .* forward calls"):
        mixup.wrap(nn.CrossEntropyLoss())(model(torch.randn(2, 4)), torch.tensor([0, 1]))


def in_thread(function):
    """Run a function in a thread of its own, and return what it returned or raised."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        return future.exception() or future.result()


def test_a_second_thread_is_refused_during_a_pass_and_the_first_goes_on(attached):
    model, mixup, criterion = attached
    model(example(model))  # checked
    refused = []

    def meanwhile(*_):
        one.remove()
        refused.append(in_thread(lambda: model(example(model))))

    one = model.fc1.register_forward_hook(meanwhile)
    output = model(example(model))
    assert isinstance(refused[0], RuntimeError)
    assert "two threads at once" in str(refused[0])
    assert criterion(output, TARGET).allclose(expected(output, mixup.plan))


def test_outputs_of_two_threads_are_not_confused(attached):
    model, _, criterion = attached
    output = model(example(model))
    other = in_thread(lambda: model(example(model, 2)))  # its numbers may be those of the first
    with pytest.raises(RuntimeError, match="outputs of another thread"):
        criterion(output, TARGET)
    del other
    output = model(example(model))
    criterion(output, TARGET).backward()


def test_a_thread_that_has_ended_is_not_its_successor(attached):
    """The second often has the id of the first, and its nodes begin at the same number."""
    model, _, criterion = attached
    kept = in_thread(lambda: model(example(model)))
    refused = in_thread(lambda: criterion(model(example(model, 2)), TARGET))
    assert "outputs of another thread" in str(refused)
    del kept


def test_one_thread_after_another_may_train(attached):
    model, _, criterion = attached
    for _ in range(3):
        done = in_thread(lambda: criterion(model(example(model)), TARGET).backward())
        assert done is None
