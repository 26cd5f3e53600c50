"""Time first: the batch at dimension 1 of inputs, outputs and targets.

The oracle is the same model with the batch in front, made so by hand.
"""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan, find_layers, mix

THOROUGH = pytest.mark.thorough
TIME, ROWS, WIDTH, CLASSES = 5, 6, 4, 3
PERM = torch.tensor([3, 5, 1, 0, 2, 4])
LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0.1, 0.9, ROWS)}


class Tagger(nn.Module):
    """(time, batch, width) → (time, batch, classes), with PyTorch's default recurrent layout."""

    layers = ("input", "stem", "rnn", "head")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.rnn = nn.Linear(WIDTH, 8), nn.LSTM(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(self.stem(x).tanh())[0])


class Encoder(nn.Module):
    """The same with attention, for `batch_first=False`."""

    layers = ("input", "stem", "encoder.layers.0", "encoder.layers.1")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(WIDTH, 8)
        block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.encoder(self.stem(x)))


class Classifier(Tagger):
    """(time, batch, width) → (batch, classes)."""

    layers = ("input", "stem", "head")

    def forward(self, x):
        return self.head(self.rnn(self.stem(x).tanh())[0][-1])


class Language(Tagger):
    """Token ids (time, batch) → (time, batch, classes)."""

    layers = ("stem", "rnn")

    def __init__(self):
        super().__init__()
        self.stem = nn.Embedding(11, 8)


MODELS = (Tagger, Encoder, Classifier, Language)
TAGGERS = (Tagger, Encoder, Language)
CASES = [(kind, layer) for kind in MODELS for layer in kind.layers]


class BatchFirst(nn.Module):
    """A model made batch first by hand."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        output = self.model(x.transpose(0, 1))
        return output if isinstance(self.model, Classifier) else output.transpose(0, 1)


def example(kind, time=TIME):
    generator = torch.Generator().manual_seed(1)
    if kind is Language:
        return torch.randint(11, (time, ROWS), generator=generator)
    return torch.randn(time, ROWS, WIDTH, generator=generator)


def target(kind):
    generator = torch.Generator().manual_seed(2)
    shape = (ROWS,) if kind is Classifier else (TIME, ROWS)
    return torch.randint(CLASSES, shape, generator=generator)


def criterion(output, target):
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


def unreduced(output, target):
    return F.cross_entropy(output.movedim(-1, 1), target, reduction="none")


def named_by_hand(layer):
    return layer if layer == "input" else f"model.{layer}"


@functools.cache
def attached(kind, *, batch_first):
    """Return a model with mixing at all layers, batch first by hand or time first.

    Looking and proving takes most of the time, so all tests of what it computes share one.
    """
    if batch_first:
        model, x = BatchFirst(kind()), example(kind).transpose(0, 1)
        return model, ManifoldMixup(model, map(named_by_hand, kind.layers), example=x)
    model = kind()
    return model, ManifoldMixup(model, kind.layers, example=example(kind), batch_dim=1)


def by_hand(kind, plan, loss):
    """Return output, loss and gradients of the model that is batch first by hand."""
    model, mixup = attached(kind, batch_first=True)
    model.zero_grad()
    plan = MixPlan(named_by_hand(plan.layer), plan.lam, plan.perm)
    y = target(kind) if kind is Classifier else target(kind).T
    with mixup.using(plan):
        output = model(example(kind).transpose(0, 1))
        value = mixup.wrap(loss)(output, y)
    value.sum().backward()
    grads = {name: p.grad for name, p in model.model.named_parameters()}
    tagger = kind is not Classifier
    value = value.T if tagger and value.ndim else value
    return output.transpose(0, 1) if tagger else output, value, grads


@pytest.mark.parametrize(
    ("loss", "lam"),
    [(criterion, "one λ"), (unreduced, "one λ"), (unreduced, "λ per example")],
)
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_outputs_losses_and_gradients_are_those_of_the_model_made_batch_first(
    kind, layer, loss, lam
):
    plan = MixPlan(layer, LAMS[lam], PERM)
    expected = by_hand(kind, plan, loss)
    model, mixup = attached(kind, batch_first=False)
    model.zero_grad()
    with mixup.using(plan):
        output = model(example(kind))
        value = mixup.wrap(loss)(output, target(kind))
    value.sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close((output, value, grads), expected)


@pytest.mark.parametrize(  # also as long as batches are that are tried
    ("kind", "time"),
    [
        pytest.param(kind, time, marks=() if kind is Tagger or time == ROWS else THOROUGH)
        for kind in MODELS
        for time in (3, 4, ROWS, 8)
    ],
)
def test_every_layer_is_proven(kind, time):
    x = example(kind, time)
    mixup = ManifoldMixup(kind(), kind.layers, example=x, batch_dim=1)
    report = mixup.verify(x)
    assert report.ok, report
    assert len(report.layers) == len(kind.layers)


@pytest.mark.parametrize("kind", MODELS)
def test_without_an_example_the_first_batch_is_checked(kind):
    model, oracle = kind(), kind()
    mixup = ManifoldMixup(model, [kind.layers[0]], batch_dim=1, seed=0)
    output = model(example(kind))
    assert mixup.plan.batch == ROWS
    mixup.wrap(criterion)(output, target(kind)).backward()
    with mixup.paused():
        torch.testing.assert_close(model(example(kind)), oracle(example(kind)))


@pytest.mark.parametrize("kind", MODELS)
def test_without_a_check_states_are_taken_to_hold_the_batch_there(kind):
    layer = kind.layers[-1] if kind is not Classifier else "stem"
    plan = MixPlan(layer, LAMS["one λ"], PERM)
    model = kind()
    mixup = ManifoldMixup(model, [layer], batch_dim=1, check=False)
    with mixup.using(plan):
        output = model(example(kind))
        mixup.target(None, output)
    torch.testing.assert_close(output, by_hand(kind, plan, unreduced)[0])


@pytest.mark.parametrize("kind", MODELS)
def test_a_table_shows_the_inputs_as_they_are(kind):
    table = find_layers(kind(), example(kind), batch_dim=1)
    (row,) = table.inputs
    assert (row.shape, row.batch) == (tuple(example(kind).shape), 1)
    assert table.output_dim == (kind is not Classifier)
    assert {row.name for row in table.cuts} >= set(kind.layers) - {"input"}


def test_padding_masks_keep_the_batch_in_front():
    class Padded(Encoder):
        def forward(self, x, mask):
            x = self.encoder(self.stem(x), src_key_padding_mask=~mask)
            return self.head(self.pool(x, mask))

        def __init__(self):
            super().__init__()
            self.pool = Mean()

    class Mean(nn.Module):
        def forward(self, x, mask):
            weights = mask.to(x.dtype).T[..., None]
            return (x * weights).sum(0) / weights.sum(0)

    torch.manual_seed(0)
    for time in (TIME, ROWS):
        x = torch.randn(time, ROWS, WIDTH)
        mask = torch.arange(time) < torch.tensor([3, 4, 2, 5, 3, 4])[:, None]
        mixup = ManifoldMixup(
            Padded(), ["encoder.layers.0"], example=(x, mask), batch_dim=1, mask="mask"
        )
        assert mixup.verify(x, mask).ok


# What the loss is given


def test_targets_with_more_dimensions_and_one():
    plan = MixPlan("rnn", LAMS["one λ"], PERM)
    y = {"tags": target(Tagger), "topic": torch.arange(ROWS)}
    seen = ([],)  # a list in a tuple is left alone

    def loss(output, y):
        seen[0].append(y)
        return output.sum()

    MixedTarget(y, plan, batch_dim=1).loss(loss, torch.zeros(TIME, ROWS, CLASSES))
    own, partner = seen[0]
    assert own is y
    assert torch.equal(partner["tags"], y["tags"][:, PERM])
    assert torch.equal(partner["topic"], PERM)


@pytest.mark.parametrize("lam", LAMS)
def test_known_losses_mix_a_floating_target(lam):
    plan = MixPlan("rnn", LAMS[lam], PERM)
    y, output = torch.randn(TIME, ROWS, CLASSES), torch.randn(TIME, ROWS, CLASSES)
    for reduction in ("mean", "sum"):
        loss = nn.MSELoss(reduction=reduction)
        weight = plan.lam.view(-1, 1)
        mixed = weight * y + (1 - weight) * y[:, PERM]
        torch.testing.assert_close(
            MixedTarget(y, plan, batch_dim=1).loss(loss, output), loss(output, mixed)
        )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_lambda_per_example_with_a_reduction(reduction):
    plan = MixPlan("rnn", LAMS["λ per example"], PERM)
    y, output = target(Tagger), torch.randn(TIME, CLASSES, ROWS)
    loss = nn.CrossEntropyLoss(reduction=reduction, ignore_index=1)

    def each(y):
        return F.cross_entropy(output, y, reduction="none", ignore_index=1)

    expected = (plan.lam * each(y) + (1 - plan.lam) * each(y[:, PERM])).sum()
    expected = expected / (y != 1).sum() if reduction == "mean" else expected
    torch.testing.assert_close(MixedTarget(y, plan, batch_dim=1).loss(loss, output), expected)


def test_ctc_loss_takes_its_targets_with_the_batch_in_front():
    torch.manual_seed(0)
    logits = torch.randn(9, ROWS, 5).log_softmax(-1)
    y, lengths = torch.randint(1, 5, (ROWS, 3)), torch.tensor([3, 2, 1, 3, 2, 3])
    given = torch.full((ROWS,), 9)
    plan, loss = MixPlan("rnn", LAMS["one λ"], PERM), nn.CTCLoss()
    mixed = MixedTarget(y, plan, batch_dim=1).loss(loss, logits, given, lengths)
    partner = loss(logits, y[PERM], given, lengths[PERM])
    expected = 0.3 * loss(logits, y, given, lengths) + 0.7 * partner
    torch.testing.assert_close(mixed, expected)


def test_an_undeclared_argument_is_seen_at_that_dimension():
    plan = MixPlan("rnn", LAMS["one λ"], PERM)
    mixed = MixedTarget(target(Tagger), plan, batch_dim=1)

    def weighted(output, y, weight):
        return (output.sum(-1) * weight).mean() + 0 * y.sum()

    with pytest.raises(ValueError, match=r"'weight',.* has shape \(5, 6\), and 6 is the batch"):
        mixed.loss(weighted, torch.zeros(TIME, ROWS, 2), torch.ones(TIME, ROWS))


@pytest.mark.parametrize("ask", ["soft", "accuracy"])
def test_soft_labels_and_accuracy_name_the_way_out(ask):
    mixed = MixedTarget(target(Tagger), MixPlan("rnn", 0.3, PERM), batch_dim=1)
    given = CLASSES if ask == "soft" else torch.zeros(ROWS, CLASSES, TIME)
    with pytest.raises(ValueError, match=r"MixedTarget\(y.movedim\(1, 0\), mixed.plan\)"):
        getattr(mixed, ask)(given)


# The value of a state


def test_mix_takes_the_dimension():
    x, plan = torch.randn(TIME, ROWS, 2), MixPlan("rnn", LAMS["λ per example"], PERM)
    weight = plan.lam.view(-1, 1)
    mixed = mix(x, plan, batch_dim=1)
    torch.testing.assert_close(mixed, weight * x + (1 - weight) * x[:, PERM])
    assert mixed.is_contiguous()
    torch.testing.assert_close(mix(x[0, :, 0], plan, batch_dim=1), mix(x[0, :, 0], plan))


# What is refused


def test_a_wrong_dimension_is_an_error_before_anything_changes():
    model = Tagger()
    with pytest.raises(TypeError, match="batch_dim must be an int, but is a str"):
        ManifoldMixup(model, ["rnn"], batch_dim="1")
    with pytest.raises(ValueError, match="batch_dim must be 0 or more"):
        ManifoldMixup(model, ["rnn"], batch_dim=-2)
    with pytest.raises(ValueError, match=r"batch_dim=3, but no input has that dimension: x \(5, 6"):
        ManifoldMixup(model, ["rnn"], batch_dim=3, example=example(Tagger))
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


def test_targets_with_the_batch_in_front_are_refused():
    model = Tagger()
    mixup = ManifoldMixup(model, ["rnn"], example=example(Tagger), batch_dim=1)
    output = model(example(Tagger))
    with pytest.raises(ValueError, match=r"shape \(6, 5\). Its dimension 1 must be the batch"):
        mixup.wrap(criterion)(output, target(Tagger).T)


@pytest.mark.parametrize("kind", [Tagger, Encoder])
def test_time_taken_for_the_batch_is_refused_and_the_way_out_named(kind):
    with pytest.raises(ValueError, match="batch_dim=1"):
        ManifoldMixup(kind(), ["stem"], example=example(kind))


def test_the_batch_taken_for_time_is_refused():
    model = BatchFirst(Tagger())
    with pytest.raises(ValueError, match="not"):
        ManifoldMixup(model, ["model.stem"], example=example(Tagger).transpose(0, 1), batch_dim=1)


def test_hooks_of_the_look_are_gone():
    model = Tagger()
    find_layers(model, example(Tagger), batch_dim=1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_compiled_with_a_full_graph():
    model = torch.compile(Encoder(), backend="eager", fullgraph=True)
    layer = "encoder.layers.0"
    mixup = ManifoldMixup(model, [layer, "input"], example=example(Encoder), batch_dim=1)
    for name in (layer, "input"):
        plan = MixPlan(name, LAMS["one λ"], PERM)
        with mixup.using(plan):
            output = model(example(Encoder))
            mixup.target(None, output)
        torch.testing.assert_close(output, by_hand(Encoder, plan, unreduced)[0])


def test_an_output_with_the_batch_elsewhere_than_the_inputs_says_how_to_return_it():
    class Speech(nn.Module):
        """Takes (batch, time, features), and returns (time, batch, classes), as CTC takes it."""

        def __init__(self, dim):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head, self.dim = nn.Linear(5, 6), nn.Linear(6, 4), dim

        def forward(self, x):
            return self.head(self.embed(x).tanh()).log_softmax(-1).movedim(0, self.dim)

    x, lengths = torch.randn(3, 7, 5), torch.tensor([7, 6, 7])
    y, of_y = torch.randint(1, 4, (3, 2)), torch.tensor([2, 1, 2])
    with pytest.raises(ValueError, match=r"returns it at dimension 1 .* output.movedim\(1, 0\)"):
        ManifoldMixup(Speech(1), ["embed"], example=x)
    model = Speech(0)
    with ManifoldMixup(model, ["embed"], seed=0) as mixup:
        output = model(x)
        loss = mixup.wrap(nn.CTCLoss())(output.movedim(0, 1), y, lengths, of_y)
        plan = mixup.plan
    state = model.embed(x)
    state = plan.lam * state + (1 - plan.lam) * state[plan.perm]
    by_hand = model.head(state.tanh()).log_softmax(-1).movedim(0, 1)
    ends = [nn.CTCLoss()(by_hand, y[p], lengths[p], of_y[p]) for p in (torch.arange(3), plan.perm)]
    torch.testing.assert_close(loss, plan.lam * ends[0] + (1 - plan.lam) * ends[1])
