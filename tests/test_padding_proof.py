"""The proof for padded batches: padding at either end, outputs by position, pooling."""

import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from all_thin import make_all_thin
from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._masks import shortened


@pytest.fixture(params=["copied", "thin"], autouse=True)
def parameters(request, monkeypatch):
    if request.param == "thin":
        make_all_thin(monkeypatch)


class Block(nn.Module):
    """Attention with an additive mask."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        if mask.dtype == torch.bool:
            mask = torch.where(mask, 0.0, torch.finfo(h.dtype).min)
        scores = h @ self.linear(h).transpose(1, 2) / 4 + mask[:, None].to(h.dtype)
        return h + scores.softmax(-1) @ h


class Last(nn.Module):
    """Pools by the position of the last token, according to the mask."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
        return h[torch.arange(len(h), device=h.device), last]


class Encoder(nn.Module):
    def __init__(self, pool: object) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.pool = pool

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, mask)
        return self.head(self.pool(h, mask))


IDS = torch.randint(1, 30, (6, 9), generator=torch.Generator().manual_seed(0))
RIGHT = torch.arange(9) < torch.tensor([[9], [4], [7], [5], [8], [3]])
LEFT = RIGHT.flip(1)


@pytest.mark.parametrize(
    ("pool", "mask"),
    [
        (lambda h, mask: h[:, -1], LEFT),
        (Last(), RIGHT),
        (Last(), LEFT),
        (lambda h, mask: h, RIGHT),  # an output for every token; padded ones are ignored
        (lambda h, mask: h, LEFT),
    ],
    ids=["last, left", "by mask, right", "by mask, left", "tokens, right", "tokens, left"],
)
def test_what_counts_is_compared(pool, mask):
    mixup = ManifoldMixup(Encoder(pool), ["blocks.0"], mask="mask", example=(IDS, mask))
    mixup.assert_verified(IDS, mask)


@pytest.mark.parametrize("pool", [lambda h, mask: h.mean(1), lambda h, mask: h[:, -1]])
def test_pooling_that_counts_padding_is_named(pool):
    with pytest.raises(
        ValueError, match=r"depend on the values in the padding, even without mixing"
    ):
        ManifoldMixup(Encoder(pool), ["blocks.0"], mask="mask", example=(IDS, RIGHT))


class WithScores(Encoder):
    """Returns, beside its output, scores between all positions."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, mask)
        return self.head(self.pool(h, mask)), h @ h.mT


def test_outputs_that_count_padding_beside_one_that_does_not_are_named():
    model, example = WithScores(Last()), (IDS, RIGHT)
    with pytest.raises(
        ValueError, match=r"in the outputs '1', but not in '0'.* as in outputs='0'\. Oth"
    ):
        ManifoldMixup(model, ["blocks.0"], mask="mask", example=example)
    ManifoldMixup(model, ["blocks.0"], mask="mask", example=example, outputs="0")


def test_padding_that_counts_behind_a_norm_is_named():
    """A norm over the features undoes what shifts or scales all of them."""

    class Normed(Encoder):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            h = nn.functional.layer_norm(x, (8,))
            for block in self.blocks:
                h = block(h, mask)
            return self.head(h.mean(1))

    x = torch.randn(6, 9, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"depend on the values in the padding, even without mix"):
        ManifoldMixup(Normed(None), ["blocks.0"], mask="mask", example=(x, RIGHT))


class Convolving(nn.Module):
    """A convolution over the positions, of states that may be multiplied by the mask before."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        self.conv, self.masked = nn.Conv1d(8, 8, 3, padding=1), masked

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(h.dtype)[..., None]
        return self.conv((h * weights if self.masked else h).mT).mT * weights


class WithConvolution(Encoder):
    def __init__(self, *, masked: bool) -> None:
        super().__init__(None)
        self.conv, self.pool = Convolving(masked=masked), Last()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, mask > 0)
        return self.head(self.pool(self.conv(h, mask), mask))


def test_a_convolution_that_counts_padding_is_refused_and_the_way_out_works():
    example = IDS, RIGHT.long()
    with pytest.raises(ValueError, match=r"depend on the values in the padding, .*multiply the st"):
        ManifoldMixup(WithConvolution(masked=False), ["blocks.0"], mask="mask", example=example)
    ManifoldMixup(WithConvolution(masked=True), ["blocks.0"], mask="mask", example=example)


@pytest.mark.parametrize("form", ["bool", "long"])
def test_as_many_features_as_positions(form):
    """What is pooled has a dimension as long as the positions, which are gone."""

    class Mean(nn.Module):
        def forward(self, h: Tensor, mask: Tensor) -> Tensor:
            weights = mask.to(h.dtype)[..., None]
            return (weights * h).sum(1) / weights.sum(1)

    class Read(Encoder):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            h = self.embed(ids)
            for block in self.blocks:
                h = block(h, mask > 0)
            return self.head(self.pool(h, mask))

    mask = RIGHT[:, :8] if form == "bool" else RIGHT[:, :8].long()
    model = Read(Mean()) if form == "long" else Encoder(Mean())
    ManifoldMixup(model, ["blocks.0"], mask="mask", example=(IDS[:, :8], mask))


class Marked(Encoder):
    """Its mask marks padding."""

    def forward(self, ids: Tensor, pad_mask: Tensor) -> Tensor:
        return super().forward(ids, pad_mask == 0)


def test_a_refusal_says_which_masks_mark_padding():
    ManifoldMixup(Marked(Last()), ["blocks.0"], mask="pad_mask", example=(IDS, ~RIGHT))
    with pytest.raises(ValueError, match="in a bool or integer mask whose name contains 'pad'"):
        ManifoldMixup(
            Marked(Last()), ["blocks.0"], mask="pad_mask", example=(IDS, (~RIGHT).float())
        )


class Compared(nn.Module):
    """Pools by what it compares with the weights, or by the weights."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(h.dtype)[..., None]
        if self.way == "maximum":
            return h.masked_fill(weights < 0.4, -1e4).amax(1)
        if self.way == "compared":
            weights = (weights > 0.3).to(h.dtype)
        if self.way == "rounded":
            weights = (weights + 0.1).round()
        return (weights * h).sum(1) / weights.sum(1)


@pytest.mark.parametrize("way", ["maximum", "compared", "rounded"])
def test_weights_that_are_only_compared_are_found_between_the_ends(way):
    """At λ = 0 and 1, and next to them, such a module is right."""
    with pytest.raises(
        ValueError, match=r"rounds or compares them: a position counts fully or not"
    ):
        ManifoldMixup(Encoder(Compared(way)), ["blocks.0"], mask="mask", example=(IDS, RIGHT))
    ManifoldMixup(Encoder(Compared("mean")), ["blocks.0"], mask="mask", example=(IDS, RIGHT))


class Unfollowed(nn.Module):
    """Pools by the weights, in a way that autograd cannot follow."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        mask = mask.to(h.dtype)
        with torch.no_grad():
            weights = mask / mask.sum(1, keepdim=True)
        if self.way == "in place":
            weights = mask.div_(mask.sum(1, keepdim=True))
        if self.way == "numpy":
            weights = weights * torch.from_numpy(np.ones_like(mask.numpy()))
        return (weights[..., None] * h).sum(1)


@pytest.mark.parametrize("way", ["no grad", "in place", "numpy"])
def test_weights_may_be_used_without_gradients(way):
    """The mask is never trained, so a module may write into it, or take its numbers."""
    ManifoldMixup(Encoder(Unfollowed(way)), ["blocks.0"], mask="mask", example=(IDS, RIGHT))


class ByLength(Encoder):
    """Makes its mask of lengths, or the lengths too of a mask."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__(Last())
        self.masked = masked

    def forward(self, ids: Tensor, given: Tensor) -> Tensor:
        lengths = given.sum(1) if self.masked else given
        return super().forward(ids, torch.arange(ids.shape[1]) < lengths[:, None])


def test_lengths_are_refused_with_the_way_out():
    lengths = RIGHT.sum(1)
    for layers in (["blocks.0"], None):
        with pytest.raises(ValueError, match=r"If 'given' is the length of each .* set mask=\."):
            ManifoldMixup(ByLength(masked=False), layers, example=(IDS, lengths))
    with pytest.raises(ValueError, match="is still read after it") as caught:
        ManifoldMixup(ByLength(masked=False), ["blocks.0"], example=(IDS, lengths - lengths.min()))
    assert "length" not in str(caught.value)  # no example has length 0
    model = ByLength(masked=True)
    ManifoldMixup(model, ["blocks.0"], mask="given", example=(IDS, RIGHT.long()))


def test_a_bypass_of_outputs_by_position_still_fails():
    class Skipping(Encoder):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return super().forward(ids, mask) + self.head(self.embed.weight[ids])

    mixup = ManifoldMixup(Skipping(lambda h, mask: h), ["blocks.0"], mask="mask", check=False)
    proof = mixup.verify(IDS, RIGHT).layers[0]
    assert proof.verdict == "failed"
    assert "bypasses" in proof.reason


@pytest.mark.parametrize("mask", [RIGHT, LEFT])
def test_more_padding_goes_where_there_is_some(mask):
    shorter = shortened(mask, "mask")
    assert (shorter <= mask).all()
    assert (shorter.sum(1) < mask.sum(1)).any()
    assert torch.equal(shorter if mask is RIGHT else shorter.flip(1), shortened(RIGHT, "mask"))


def test_tokens_are_mixed_where_both_have_one():
    """At λ = 0, a sentence has its partner's outputs, at every position of the partner."""
    model = Encoder(lambda h, mask: h).eval()
    mixup = ManifoldMixup(model, ["blocks.0"], mask="mask", example=(IDS, RIGHT))
    perm = torch.tensor([3, 0, 5, 1, 2, 4])
    plain = model(IDS, RIGHT)
    with mixup.using(MixPlan("blocks.0", torch.tensor(0.0), perm)):
        mixed = model(IDS, RIGHT)
    torch.testing.assert_close(mixed[RIGHT[perm]], plain[perm][RIGHT[perm]])


# Advice in messages


class Deciding(Encoder):
    """Takes the last token, found in the ids, of what its own code computed."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        h = self.embed(input_ids)
        for block in self.blocks:
            h = block(h, attention_mask)
        places = torch.arange(input_ids.shape[1])
        last = ((input_ids != 0) * places).argmax(1)
        return (self.head(h) * 2)[torch.arange(len(h)), last]


def test_a_decoder_is_told_how_to_pool():
    call = {"input_ids": IDS * RIGHT, "attention_mask": RIGHT}
    for options in ({"layers": ["blocks.0"]}, {"layers": None}):
        with pytest.raises(ValueError, match="class Last") as caught:
            ManifoldMixup(Deciding(None), example=call, mask="attention_mask", **options)
        text = str(caught.value)
        assert 'mask="attention_mask"' in text
    body = Encoder(lambda h, mask: h)
    body.head = nn.Identity()
    lines = text[text.index("class Last") :]
    names = {"nn": nn, "torch": torch}
    exec(
        lines.replace(
            "self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state",
            "self.body(input_ids, attention_mask)",
        ),
        names,
    )
    model = names["Classifier"](body, 8, 3)
    mixup = ManifoldMixup(
        model, ["body.blocks.0"], mask="attention_mask", example=(IDS * RIGHT, RIGHT)
    )
    mixup.assert_verified(IDS * RIGHT, RIGHT)


def test_a_mask_that_cannot_be_mixed_names_the_layers_after_it():
    class Union(Block):
        def forward(self, h: Tensor, mask: Tensor) -> Tensor:
            seen = mask > -1e4 if mask.is_floating_point() else mask
            return super().forward(h, seen)

    model = Encoder(Last())
    model.blocks = nn.ModuleList([Union(), Union()])
    with pytest.raises(ValueError, match=r"no mask is needed: .*'pool'"):
        ManifoldMixup(model, ["blocks.0"], mask="mask", example=(IDS, RIGHT))


class Loud(Block):
    """Has no norm, and scores that grow from block to block."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return super().forward(3 * self.linear(h), mask)


class LoudUnion(Loud):
    """Reads the union of both masks besides."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return super().forward(h, mask > -1e4 if mask.is_floating_point() else mask)


@pytest.mark.parametrize("last", [Loud, LoudUnion])
def test_scores_that_are_far_apart_are_no_jump(last):
    model, batch = Encoder(lambda h, mask: h[:, 0]), (IDS * RIGHT, RIGHT)
    model.blocks = nn.ModuleList([Loud(), Loud(), last()])
    if last is Loud:
        assert ManifoldMixup(model, ["blocks.0"], mask="mask", example=batch).layers
    else:
        with pytest.raises(ValueError, match="jump"):
            ManifoldMixup(model, ["blocks.0"], mask="mask", example=batch)


BY_NAME = random.random  # a function that was taken out of its module


class Augmented(nn.Module):
    """Drops features of one example after the other, by a generator of Python or NumPy."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        keep = [self.draw() < 0.97 for _ in range(h.numel())]
        return self.head(self.b(h * torch.tensor(keep).view(h.shape)).tanh())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: random.random(),
        lambda: random.uniform(0, 1),
        lambda: np.random.rand(),  # noqa: NPY002
        lambda: np.random.uniform(),  # noqa: NPY002
    ],
    ids=["random", "uniform", "NumPy", "NumPy uniform"],
)
def test_what_python_and_numpy_draw_for_one_example_after_the_other_is_made_alike(draw):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    drawing = dict(vars(random)), dict(vars(np.random))
    assert ManifoldMixup(Augmented(draw), ["a", "b"], check=False).verify(x).ok
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert (dict(vars(random)), dict(vars(np.random))) == drawing


def test_another_thread_draws_as_before_while_a_model_is_proven():
    class Beside(Augmented):
        def forward(self, x: Tensor) -> Tensor:
            drawn: list[float] = []
            other = threading.Thread(target=lambda: drawn.extend(random.random() for _ in "ab"))
            other.start()
            other.join()
            assert drawn[0] != drawn[1]
            return super().forward(x)

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert ManifoldMixup(Beside(lambda: random.random()), ["b"], check=False).verify(x).ok


def test_chance_by_place_is_named_and_what_comes_after_it_is_proven():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    model = Augmented(lambda: BY_NAME() * 1.5)  # drops a third, so that no two passes are alike
    report = ManifoldMixup(model, ["a", "b"], check=False).verify(x)
    assert [proof.verdict for proof in report.layers] == ["inconclusive", "proven"]
    assert "draws from Python's or NumPy's generator" in report.layers[0].reason


def test_an_error_of_the_choice_has_its_reason_and_what_could_be_said():
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(self.b(self.a(x))), "start": x * 2}

    x = torch.randn(6, 4)
    with pytest.raises(
        ValueError, match=r"For 3 of them, such as 'a': .*'start'.* set outputs='logits'"
    ):
        _ = find_layers(Aside(), x).default
