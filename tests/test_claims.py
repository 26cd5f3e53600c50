"""Each output that a loss reads has its own mixed targets, or backward names the output."""

import copy
import pickle
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup, MixPlan
from zoo import gradients, plain_mix

ROWS = 5
KIND, SIZE = torch.tensor([2, 0, 1, 1, 0]), torch.linspace(-1, 1, ROWS)[:, None]
PLAN = MixPlan("body", 0.3, torch.tensor([1, 2, 3, 4, 0]))


class Returning(nn.Module):
    """A body and two heads; ``pack`` decides which results are returned, and how."""

    def __init__(self, pack):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.kind, self.size = nn.Linear(6, 3), nn.Linear(6, 1)
        self.pack = pack

    def forward(self, x):
        return self.pack(*self.heads(self.body(x)))

    def heads(self, h):
        return h, self.kind(h), self.size(h)


def heads(h, kind, size):
    return {"kind": kind, "size": [size]}


def attach(pack, **options):
    model = Returning(pack)
    return model, ManifoldMixup(model, ["body"], seed=0, **options)


def run(pack, x=None, check=False):
    """Run a pass with PLAN; return its output, and the same heads split by hand."""
    model, mixup = attach(pack, check=check)
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)) if x is None else x
    with mixup.using(PLAN):
        output = model(x)
    twin = Returning(pack)
    oracle = twin.heads(plain_mix(twin.body(x), PLAN))
    return model, mixup, output, twin, oracle


def ends(criterion, output, y):
    lam, perm = PLAN.lam, PLAN.perm
    return lam * criterion(output, y) + (1 - lam) * criterion(output, y[perm])


def test_a_second_head_without_mixed_targets_raises_with_its_path():
    _, mixup, output, _, _ = run(heads)
    loss = mixup.wrap(nn.CrossEntropyLoss())(output["kind"], KIND)
    loss = loss + F.mse_loss(output["size"][0], SIZE)
    with pytest.raises(RuntimeError, match=r"the output 'size.0' of .* at 'body'.*its own targets"):
        loss.backward()


def test_each_head_with_targets_of_its_own_has_the_gradient_of_the_split_model():
    model, mixup, output, twin, (_, kind, size) = run(heads)
    loss = mixup.wrap(nn.CrossEntropyLoss())(output["kind"], KIND)
    (loss + mixup.wrap(nn.MSELoss())(output["size"][0], SIZE)).backward()
    (ends(F.cross_entropy, kind, KIND) + F.mse_loss(size, plain_mix(SIZE, PLAN))).backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


def test_a_criterion_that_is_given_all_outputs_answers_for_all():
    model, mixup, output, _, _ = run(heads)

    def both(output, y):
        return F.cross_entropy(output["kind"], y) + output["size"][0].square().mean()

    mixup.wrap(both)(output, KIND).backward()
    assert gradients(model)


def test_a_gradient_that_merely_passes_through_a_returned_tensor_needs_no_claim():
    model, mixup, output, twin, (_, kind, _) = run(lambda h, kind, size: (kind, {"hidden": [h]}))
    mixup.wrap(nn.CrossEntropyLoss())(output[0], KIND).backward()
    ends(F.cross_entropy, kind, KIND).backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


def test_a_hidden_state_that_a_loss_reads_needs_one():
    _, mixup, output, _, _ = run(lambda h, kind, size: (kind, {"hidden": [h]}))
    loss = mixup.wrap(nn.CrossEntropyLoss())(output[0], KIND)
    with pytest.raises(RuntimeError, match=r"the output '1.hidden.0'"):
        (loss + output[1]["hidden"][0].square().mean()).backward()


def test_an_output_that_outputs_does_not_name_may_be_returned_but_not_used():
    x = torch.randn(ROWS, 4)
    for used in (False, True):
        model, mixup = attach(
            lambda h, kind, size: {"kind": kind, "all": (h, size)}, example=x, outputs="kind"
        )
        output = model(x)
        loss = mixup.wrap(nn.CrossEntropyLoss())(output["kind"], KIND)
        if not used:
            loss.backward()
            continue
        loss = loss + mixup.wrap(nn.MSELoss())(output["all"][1], SIZE)
        with pytest.raises(RuntimeError, match=r"the model output 'all.1'.*outputs= does not name"):
            loss.backward()


def test_one_tensor_at_two_paths_is_one_output():
    model, mixup, output, _, _ = run(lambda h, kind, size: {"kind": kind, "again": (kind,)})
    assert output["kind"] is output["again"][0]
    loss = mixup.wrap(nn.CrossEntropyLoss())(output["kind"], KIND)
    (loss + output["again"][0].square().mean()).backward()
    assert gradients(model)


def balanced(h, kind, size):
    return kind, h.mean(0).square().sum()


def test_a_number_is_exempt_beside_an_output_with_mixed_targets():
    model, mixup, (kind, balance), twin, (h, split, _) = run(balanced, check=True)
    (mixup.wrap(nn.CrossEntropyLoss())(kind, KIND) + balance).backward()
    (ends(F.cross_entropy, split, KIND) + h.mean(0).square().sum()).backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


def test_a_number_that_nobody_looked_at_may_be_a_loss_inside_the_model():
    _, mixup, (kind, balance), _, _ = run(balanced, check=False)
    loss = mixup.wrap(nn.CrossEntropyLoss())(kind, KIND) + balance
    with pytest.raises(RuntimeError, match="the output '1'"):
        loss.backward(retain_graph=True)
    mixup.target(None, balance)
    loss.backward()


@pytest.mark.parametrize("claimed", [False, True], ids=["alone", "beside another number"])
def test_a_number_alone_is_a_loss_without_targets(claimed):
    _, mixup, output, _, _ = run(lambda h, kind, size: (h.sum(), kind.sum()))
    if claimed:
        mixup.target(KIND, output[1])
    with pytest.raises(RuntimeError, match=r"the output '0'.*a forward pass that mixed"):
        output[0].backward()


def test_outputs_without_a_target_are_claimed_by_none():
    """The mean and variance of a VAE."""
    model, mixup, (kind, size), _, _ = run(lambda h, kind, size: (kind, size))
    prior = size.square().mean()
    loss = mixup.wrap(nn.CrossEntropyLoss())(kind, KIND)
    with pytest.raises(RuntimeError, match=r"mixup.target\(None, output\)"):
        (loss + prior).backward(retain_graph=True)
    mixup.target(None, size)
    (loss + prior).backward()
    assert gradients(model)


def test_a_target_of_another_batch_size_claims_nothing():
    _, mixup, output, _, _ = run(lambda h, kind, size: kind)
    with pytest.raises(ValueError, match="mixed 5 examples"):
        mixup.wrap(nn.CrossEntropyLoss())(output, KIND[:3])
    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        F.cross_entropy(output, KIND).backward()


def test_the_latest_pass_as_a_whole_can_be_claimed():
    model, mixup, output, _, _ = run(heads)
    mixed = mixup.target(KIND)
    (mixed.loss(F.cross_entropy, output["kind"]) + output["size"][0].mean()).backward()
    assert gradients(model)


def test_a_target_that_is_mixed_inside_the_model_answers_for_what_it_returns():
    model, mixup = attach(lambda h, kind, size: (loss(kind), kind), check=False)
    loss = lambda kind: mixup.target(KIND, kind).loss(F.cross_entropy, kind)  # noqa: E731
    model(torch.randn(ROWS, 4))[0].backward()
    assert gradients(model)


# In-place writes into an output


def first_column(output):
    output[:, 0] = 0
    return output


@pytest.mark.parametrize("write", [first_column, lambda output: output.mul_(2), torch.Tensor.tanh_])
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_output_that_is_changed_in_place_is_still_the_output(write, wrapped):
    model, mixup, output, twin, (_, kind, _) = run(lambda h, kind, size: (kind, size))
    changed = write(output[0])
    prior = mixup.wrap(nn.MSELoss())(output[1], SIZE)
    if not wrapped:
        with pytest.raises(RuntimeError, match="the output '0'"):
            (F.cross_entropy(changed, KIND) + prior).backward()
        return
    mixup.wrap(nn.CrossEntropyLoss())(changed, KIND).backward()
    ends(F.cross_entropy, write(kind), KIND).backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


ALONE = {
    "a result": lambda h, kind, size: kind,
    "a view": lambda h, kind, size: kind[:, :],
    "a view of another shape": lambda h, kind, size: kind[:, None].flatten(1),
}


@pytest.mark.parametrize(
    "write", [None, first_column, lambda output: output.mul_(2)], ids=["not", "partly", "doubled"]
)
@pytest.mark.parametrize("pack", ALONE.values(), ids=ALONE)
def test_an_output_alone_is_watched_even_if_it_is_changed_in_place(pack, write):
    write = write or (lambda output: output)
    model, mixup, output, twin, (_, kind, _) = run(pack)
    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        F.cross_entropy(write(output), KIND).backward()
    model, mixup, output, twin, (_, kind, _) = run(pack)
    mixup.wrap(nn.CrossEntropyLoss())(write(output), KIND).backward()
    ends(F.cross_entropy, write(kind), KIND).backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


def test_a_state_that_the_output_was_computed_from_needs_no_claim_beside_it():
    states = []
    _, _, output, _, _ = run(lambda h, kind, size: states.append(h) or kind)
    states[0].square().sum().backward(retain_graph=True)  # as before: only outputs are watched
    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        output.sum().backward()


def test_a_tensor_that_the_model_only_passes_on_has_its_claim_with_the_pass():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    mixup = ManifoldMixup(model, ["0"], check=False, p=1.0, seed=0)
    before = torch.randn(ROWS, 3, requires_grad=True) * 2
    with mixup.paused():
        assert model(before) is before
    output = model(before)
    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        F.cross_entropy(output, KIND).backward(retain_graph=True)
    mixup.wrap(nn.CrossEntropyLoss())(output, KIND).backward()


def test_a_write_that_would_spoil_the_gradient_is_noticed_as_without_mixing():
    _, mixup, output, _, _ = run(lambda h, kind, size: kind.softmax(1))
    output.mul_(2)  # the gradient of softmax needs its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        mixup.wrap(nn.NLLLoss())(output.log(), KIND).backward()


# Containers and transforms


class Frozen(Mapping):
    """A mapping that may not be copyable."""

    def __init__(self, items):
        self.items_ = items

    def __getitem__(self, key):
        return self.items_[key]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


def test_a_container_that_cannot_be_made_anew_is_returned_as_it_is():
    _, mixup, output, _, _ = run(lambda h, kind, size: Frozen({"kind": kind, "size": size}))
    assert type(output) is Frozen
    loss = mixup.wrap(nn.CrossEntropyLoss())(output["kind"], KIND)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="the output 'size'"):
        (loss + output["size"].mean()).backward()


@pytest.mark.parametrize("wrapped", [True, False])
def test_inside_a_functional_transform(wrapped):
    x = torch.randn(ROWS, 4)
    model, mixup = attach(lambda h, kind, size: kind, example=x)
    criterion = mixup.wrap(nn.CrossEntropyLoss()) if wrapped else nn.CrossEntropyLoss()
    parameters = dict(model.named_parameters())

    def loss(parameters):
        return criterion(torch.func.functional_call(model, parameters, (x,)), KIND)

    if not wrapped:
        with pytest.raises(RuntimeError, match="its targets were not mixed"):
            torch.func.grad(loss)(parameters)
        return
    gradient = torch.func.grad(loss)(parameters)
    mixup.load_state_dict({"seed": 0, "step": 0, "stream": 2})
    loss(parameters).backward()
    torch.testing.assert_close(gradient["kind.bias"], model.kind.bias.grad)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_finds_the_output_and_leaves_a_plan_behind():
    x = torch.randn(ROWS, 4)
    model, mixup = attach(lambda h, kind, size: kind, example=x)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    parameters = {name: one.detach() for name, one in model.named_parameters()}
    directions = {name: torch.randn_like(one) for name, one in parameters.items()}

    def loss(parameters):
        return criterion(torch.func.functional_call(model, parameters, (x,)), KIND)

    _, slope = torch.func.jvp(loss, (parameters,), (directions,))
    plan = pickle.loads(pickle.dumps(mixup.plan))
    with mixup.using(plan):
        gradients = torch.func.grad(loss)(parameters)
    expected = sum((gradients[name] * directions[name]).sum() for name in gradients)
    assert slope.item() == pytest.approx(expected.item(), rel=1e-5)
    assert type(copy.deepcopy(mixup.plan.lam).item()) is float


def test_the_gradient_of_a_gradient_comes_through():
    x = torch.randn(ROWS, 4, requires_grad=True)
    model, mixup, output, twin, (_, kind, _) = run(lambda h, kind, size: kind, x)
    for loss in (
        mixup.wrap(nn.CrossEntropyLoss())(output, KIND),
        ends(F.cross_entropy, kind, KIND),
    ):
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        slope.square().sum().backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


# The order of arguments


@pytest.mark.parametrize(
    "target",
    [
        lambda output: output,
        lambda output: {"y": KIND, "teacher": [2 * output]},
        torch.Tensor.detach,  # already mixed
        lambda output: output.detach()[:, None],
    ],
)
def test_a_target_that_a_mixed_pass_made_is_refused(target):
    _, mixup, output, _, _ = run(lambda h, kind, size: size)
    criterion = mixup.wrap(lambda output, target: output.sum())
    with pytest.raises(ValueError, match=r"the target.* mixed the hidden state at 'body'.*swapped"):
        criterion(SIZE, target(output))
    with pytest.raises(RuntimeError, match="its targets were not mixed"):  # no output was claimed
        output.sum().backward()


def test_an_output_of_an_unmixed_pass_and_a_returned_input_may_be_targets():
    model, mixup, output, _, _ = run(lambda h, kind, size: size)
    with mixup.paused():
        clean = model(torch.randn(ROWS, 4))
    mixup.wrap(nn.MSELoss())(output, clean)
    x = torch.randn(ROWS, 4)
    model.pack = lambda h, kind, size: (h @ torch.ones(6, 4), x)
    with mixup.using(PLAN):
        rebuilt, given = model(x)
    mixup.wrap(nn.MSELoss())(rebuilt, given).backward()


# Outputs that are only logged, and outputs of other models


LOGGED = {
    "a loss without gradients": lambda mixup, o: torch.no_grad()(mixup.wrap(F.cross_entropy))(
        o, KIND
    ),
    "a loss of what is detached": lambda mixup, o: mixup.wrap(F.cross_entropy)(o.detach(), KIND),
    "accuracy": lambda mixup, o: mixup.target(KIND, o).accuracy(o),
    "accuracy without gradients": lambda mixup, o: torch.no_grad()(mixup.target(KIND, o).accuracy)(
        o
    ),
}


@pytest.mark.parametrize("log", LOGGED.values(), ids=LOGGED.keys())
def test_what_is_logged_claims_nothing(log):
    _, mixup, output, _, _ = run(lambda h, kind, size: kind)
    log(mixup, output)
    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        F.cross_entropy(output, KIND).backward()


USED = {
    "loss": lambda t, o: t.loss(F.cross_entropy, o),
    "soft labels": lambda t, o: F.cross_entropy(o, t.soft(3)),
    "by hand": lambda t, o: sum(
        w * F.cross_entropy(o, t.y[rows])
        for w, rows in ((t.plan.lam, slice(None)), (1 - t.plan.lam, t.plan.perm))
    ),
}


@pytest.mark.parametrize("use", USED.values(), ids=USED.keys())
def test_mixed_targets_that_go_into_a_loss_claim_its_output(use):
    _, mixup, output, _, (_, kind, _) = run(lambda h, kind, size: kind)
    targets = mixup.target(KIND, output)
    targets.accuracy(output)
    loss = use(targets, output)
    torch.testing.assert_close(loss, ends(F.cross_entropy, kind, KIND))
    loss.backward()


@pytest.mark.parametrize("order", ["accuracy last", "accuracy first", "of another"])
def test_an_accuracy_takes_back_no_claim_but_its_own(order):
    _, mixup, output, _, _ = run(lambda h, kind, size: kind)
    criterion, targets = mixup.wrap(nn.CrossEntropyLoss()), mixup.target(KIND, output)
    if order == "accuracy first":
        targets.accuracy(output)
    loss = targets.loss(F.cross_entropy, output) if order == "of another" else None
    loss = criterion(output, KIND) if loss is None else loss
    (mixup.target(KIND, output) if order == "of another" else targets).accuracy(output)
    loss.backward()


def test_mixed_targets_can_be_copied():
    _, mixup, output, _, _ = run(lambda h, kind, size: kind)
    targets = mixup.target(KIND, output)
    for copied in (copy.deepcopy(targets), pickle.loads(pickle.dumps(targets))):
        assert torch.equal(copied.soft(3), targets.soft(3))


@pytest.mark.parametrize("kind", ["data", "another model"])
def test_what_stands_beside_an_output_and_is_of_no_pass_is_refused(kind):
    _, mixup, output, _, _ = run(lambda h, kind, size: kind)
    beside = torch.randn(ROWS, 3) if kind == "data" else nn.Linear(4, 3)(torch.randn(ROWS, 4))
    criterion = mixup.wrap(lambda o, y: F.cross_entropy(o["s"] + o["t"].detach(), y))
    with pytest.raises(ValueError, match=r"holds at 't' a tensor .*\(5, 3\).*with_target="):
        criterion({"s": output, "t": beside}, KIND)


def test_what_stands_beside_an_output_and_is_of_its_pass_or_of_no_batch_is_no_other_model_s():
    """The loss is the interpolation of both ends."""
    _, mixup, output, _, (_, kind, size) = run(heads)
    weight = torch.randn(3, 3)  # dimension 0 is classes, not examples

    def criterion(o, y):
        loss = F.cross_entropy(o["kind"] @ o["w"], y) * o["scale"]
        return loss + o["size"].mean() + o["half"].mean()

    given = {"kind": output["kind"], "w": weight, "scale": torch.tensor(2.0)}
    given |= {"size": output["size"][0].detach(), "half": output["kind"] / 2}
    its = {"kind": kind, "w": weight, "scale": 2.0, "size": size, "half": kind / 2}
    torch.testing.assert_close(mixup.wrap(criterion)(given, KIND), ends(criterion, its, KIND))


# Outputs that are views of each other


def halves(h, kind, size):
    return kind[:, :2], kind[:, 1:]


def whole_and_view(h, kind, size):
    return kind, kind.view(-1, 3)


@pytest.mark.parametrize("pack", [halves, whole_and_view])
def test_what_is_written_into_a_view_has_the_gradient_that_it_has_without_mixing(pack):
    model, mixup, (one, other), twin, parts = run(pack)
    mixup.target(None, other)
    one *= 2
    loss = mixup.wrap(nn.CrossEntropyLoss())(one, KIND.clamp(max=1)) + other.square().sum()
    loss.backward()
    one, other = pack(*parts)
    one *= 2
    (ends(F.cross_entropy, one, KIND.clamp(max=1)) + other.square().sum()).backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


@pytest.mark.parametrize("pack", [halves, whole_and_view])
@pytest.mark.parametrize("used", [0, 1])
def test_each_view_needs_a_claim_of_its_own(pack, used):
    _, mixup, output, _, _ = run(pack)
    mixup.target(None, output[used])
    output[used].sum().backward(retain_graph=True)
    if (pack, used) != (whole_and_view, 1):  # the whole's gradient may come from the view
        with pytest.raises(RuntimeError, match="its targets were not mixed"):
            output[1 - used].sum().backward()


@pytest.mark.parametrize("pack", [halves, whole_and_view])
@pytest.mark.parametrize("written", [0, 1])
@pytest.mark.parametrize("used", [0, 1])
def test_a_write_into_a_view_does_not_replace_a_claim(pack, written, used):
    """PyTorch then drops the hooks on all views of the same memory."""
    _, mixup, output, _, _ = run(pack)
    output[written].mul_(2)
    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        F.cross_entropy(output[used], KIND.clamp(max=1)).backward(retain_graph=True)
    mixup.wrap(nn.CrossEntropyLoss())(output[used], KIND.clamp(max=1)).backward()


def test_a_write_into_a_view_of_a_container_that_cannot_be_made_anew_neither():
    _, _, output, _, _ = run(lambda h, kind, size: Frozen({"kind": kind[:, :2]}))
    output["kind"].mul_(2)
    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        output["kind"].sum().backward()


@pytest.mark.parametrize("written", [0, 1])
def test_views_of_which_outputs_names_one_may_be_written(written):
    model, mixup = attach(halves, check=False, outputs="1")
    with mixup.using(PLAN):
        output = model(torch.randn(ROWS, 4))
    output[written].mul_(2)
    mixup.wrap(nn.CrossEntropyLoss())(output[1], KIND.clamp(max=1)).backward()


def test_a_view_that_outputs_names_may_be_used_and_what_it_is_a_view_of():
    model, mixup = attach(whole_and_view, check=False, outputs="1")
    with mixup.using(PLAN):
        output = model(torch.randn(ROWS, 4))
    mixup.wrap(nn.CrossEntropyLoss())(output[1], KIND).backward()
    assert model.body[0].weight.grad is not None
