"""Outputs whose rows are no examples: what is refused, and that the ways out work."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from manifold_mixup import ManifoldMixup, find_layers
from states import normal

TIME, ROWS = 5, 6
X, LENGTHS = normal(ROWS, TIME, 4), torch.tensor([5, 2, 3, 1, 5, 4])
MASK = torch.arange(TIME) < LENGTHS[:, None]
TAGS = (torch.arange(ROWS * TIME).view(ROWS, TIME) % 3).masked_fill(~MASK, -100)
CLASSES = torch.arange(ROWS) % 3


def flat(output, tags):
    return cross_entropy(output.flatten(0, 1), tags.flatten())


class Flat(nn.Module):
    """Returns a row for each token."""

    def __init__(self, *, unflatten: bool) -> None:
        super().__init__()
        self.body, self.head, self.unflatten = nn.Linear(4, 8), nn.Linear(8, 3), unflatten

    def forward(self, x: Tensor) -> Tensor:
        output = self.head(self.body(x).tanh()).flatten(0, 1)
        return output.unflatten(0, (len(x), -1)) if self.unflatten else output


class Views(Flat):
    """Returns a row for each view, those of an example apart."""

    def forward(self, x: Tensor) -> Tensor:
        output = self.head(self.body(x).tanh()).transpose(0, 1).flatten(0, 1)
        return output.unflatten(0, (-1, len(x))).transpose(0, 1) if self.unflatten else output


def by_hand(model, mixup, loss, y):
    """Return the loss of a model whose ``body`` was mixed."""
    plan = mixup.plan
    with mixup.paused():
        h = model.body(X)
        output = model.head((plan.lam * h + (1 - plan.lam) * h[plan.perm]).tanh())
    return plan.lam * loss(output, y) + (1 - plan.lam) * loss(output, y[plan.perm])


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        (Flat, r"output.unflatten\(0, \(len\(x\), -1\)\) if"),
        (Views, r"else output.unflatten\(0, \(-1, len\(x\)\)\).transpose\(0, 1\)"),
    ],
)
def test_tokens_as_rows_are_refused_and_with_the_batch_first_they_are_mixed(kind, way_out):
    with pytest.raises(ValueError, match=rf"shape \(30, 3\) holds 5 rows.* {way_out}"):
        ManifoldMixup(kind(unflatten=False), ["body"], example=X)
    model = kind(unflatten=True)
    mixup = ManifoldMixup(model, ["body"], example=X, seed=0)
    loss = mixup.wrap(flat)(model(X), TAGS)
    torch.testing.assert_close(loss, by_hand(model, mixup, flat, TAGS))


class Packed(nn.Module):
    """Packs its sequences, by lengths or by a mask, or does not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Linear(4, 6), nn.GRU(6, 8, batch_first=True)
        self.head, self.how, self.last = nn.Linear(8, 3), how, Last()

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        h = self.embed(x)
        if self.how == "last":
            return self.head(self.last(self.rnn(h)[0], given))
        lengths = given.sum(1) if self.how == "mask" else given
        packed = pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False)
        states, last = self.rnn(packed)
        if self.how == "mean":
            padded, lengths = pad_packed_sequence(states, batch_first=True, total_length=TIME)
            return self.head(padded.sum(1) / lengths[:, None])
        return self.head(states.data if self.how == "packed" else last[-1])


class Last(nn.Module):
    """The module that messages print."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        mask = mask.to(h.dtype)
        following = nn.functional.pad(mask[:, 1:], (0, 1))
        return ((mask - following).clamp(min=0)[..., None] * h).sum(1)


@pytest.mark.parametrize(
    ("how", "layer", "given", "says"),
    [
        ("lengths", "embed", LENGTHS, "If 'given' is the length of each"),
        ("mean", "rnn", LENGTHS, "an integer tensor that depends.* If 'given' is the length"),
        ("packed", "embed", LENGTHS, "not in whole examples.*pad_packed_sequence"),
        ("mask", "embed", MASK, "still read after it, by 'rnn'"),
    ],
)
def test_packed_sequences_are_refused(how, layer, given, says):
    mask = "given" if how == "mask" else None
    with pytest.raises(ValueError, match=says) as caught:
        ManifoldMixup(Packed(how), [layer], example=(X, given), mask=mask)
    assert "Do not pack sequences of different lengths" in str(caught.value)
    assert "class Last(nn.Module)" in str(caught.value)
    assert "token ids" not in str(caught.value)


def test_not_packed_they_have_the_same_outputs_and_are_mixed():
    torch.manual_seed(0)
    packed, model = Packed("lengths"), Packed("last")
    model.load_state_dict(packed.state_dict())
    torch.testing.assert_close(model(X, MASK), packed(X, LENGTHS))
    mixup = ManifoldMixup(model, ["embed", "rnn"], example=(X, MASK), mask="given")
    mixup.assert_verified(X, MASK)


class OfList(nn.Module):
    """Is given a list with a tensor for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, parts: list[Tensor] | Tensor) -> Tensor:
        x = parts if isinstance(parts, Tensor) else pad_sequence(parts, batch_first=True)
        return self.head(self.body(x).tanh().sum(1))


@pytest.mark.parametrize("lengths", [LENGTHS, torch.full((ROWS,), ROWS)], ids=["several", "one"])
def test_a_list_with_a_tensor_for_each_example_is_refused(lengths):
    parts = [normal(int(length), 4) for length in lengths]
    model = OfList()
    with pytest.raises(ValueError, match=r"'parts' is a list with a tensor for each example"):
        ManifoldMixup(model, ["body"], example=(parts,))
    padded = pad_sequence(parts, batch_first=True)
    assert "body" in {row.name for row in find_layers(model, padded).cuts}
    mixup = ManifoldMixup(model.head, ["input"], seed=0)
    mixup.wrap(nn.CrossEntropyLoss())(model(parts), CLASSES).backward()
    assert mixup.plan.batch == ROWS


class Detector(nn.Module):
    """Computes its loss inside, if it is given the boxes of each image, as DETR does."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, labels=None):
        boxes = self.head(self.body(x))
        if labels is None:
            return {"boxes": boxes}
        pairs = zip(boxes, labels, strict=True)
        loss = sum((box - each["boxes"]).abs().sum() for box, each in pairs)
        return {"boxes": boxes, "loss": loss}


def test_boxes_of_each_example_among_the_inputs_belong_in_the_criterion():
    model, x = Detector(), torch.randn(4, 4)
    labels = [{"boxes": torch.rand(n, 4), "kinds": torch.ones(n)} for n in (1, 2, 1, 3)]
    mixup = ManifoldMixup(model, ["body"], outputs="boxes", seed=0)
    mixup.target(None, model(x))
    with pytest.raises(ValueError, match=r"'labels' is a list with several.*the loss outside"):
        model(x, labels)


def test_a_language_model_that_returns_its_loss_is_given_no_advice_on_its_ids():
    class Loss(nn.Module):
        """As the AutoregressiveWrapper of x-transformers."""

        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

        def forward(self, ids):
            logits = self.head(self.embed(ids[:, :-1]))
            return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    with pytest.raises(ValueError, match="a loss computed inside it") as refused:
        ManifoldMixup(Loss(), ["embed"], example=torch.randint(9, (4, 6)))
    assert "Return the model's outputs instead, and wrap the criterion" in str(refused.value)
    assert "end of a sequence" not in str(refused.value)
