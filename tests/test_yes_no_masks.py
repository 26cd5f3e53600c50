"""Masks that attention reads as yes or no: it gets the weights of a mixed mask all the same."""

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from all_thin import make_all_thin
from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._attach.mask_pair import MaskPair, pair
from padded import (
    BATCH,
    CLASSES,
    FORMS,
    IDS,
    LEAST,
    PERM,
    TARGET,
    TIME,
    VALID,
    Encoder,
    Weighted,
    built,
)
from zoo import plain_labels

LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0.1, 0.9, BATCH)}
LAYERS = ["embed", "blocks.0"]


@pytest.fixture(params=["copied", pytest.param("thin", marks=pytest.mark.thorough)], autouse=True)
def parameters(request, monkeypatch):
    if request.param == "thin":
        make_all_thin(monkeypatch)


# The ways to forbid scores (batch, heads, queries, keys) by a mask (batch, keys)


def masked_fill(scores, mask):
    return scores.masked_fill(~mask.bool()[:, None, None], LEAST)


def masked_fill_in_place(scores, mask):
    scores.masked_fill_(mask[:, None, None] == 0, -math.inf)
    return scores


def masked_fill_by_name(scores, mask):
    return scores.masked_fill(mask=mask.logical_not()[:, None, None], value=torch.tensor(-1e9))


def where(scores, mask):
    return torch.where(mask[:, None, None] > 0, scores, -1e9)


def where_padding(scores, mask):
    return torch.where(mask[:, None, None] < 1, torch.tensor(-1e9), scores)


def where_method(scores, mask):
    return scores.where(mask.unsqueeze(1).unsqueeze(2).to(torch.bool), -1e9)


def where_tensor(scores, mask):
    return torch.where(mask[:, None, None] != 0, scores, torch.full_like(scores, -1e9))


def product(scores, mask):
    """As DeBERTa does: a query in the padding sees nothing."""
    mask = mask.long()[:, None, None]
    square = mask * mask.squeeze(-2).unsqueeze(-1)
    return scores.masked_fill(~square.bool(), LEAST)


def square_by_and(scores, mask):
    mask = mask.bool()
    return scores.masked_fill(~(mask[:, None, :, None] & mask[:, None, None]), LEAST)


def added(scores, mask):
    return scores + (1.0 - mask[:, None, None].float()) * -1e4


def added_minus_one(scores, mask):
    return scores.add_((mask.float() - 1)[:, None, None] * 1e9)


def subtracted(scores, mask):
    return scores - (1 - mask.float())[:, None, None] * 65500


def logarithm(scores, mask):
    return scores + mask[:, None, None].float().log()


def as_given(scores, mask):
    """Reads a mask (batch, 1, queries, keys)."""
    return scores.masked_fill(~mask.bool(), LEAST)


WAYS = {
    way.__name__: way
    for way in (
        masked_fill,
        masked_fill_in_place,
        masked_fill_by_name,
        where,
        where_padding,
        where_method,
        where_tensor,
        product,
        square_by_and,
        added,
        added_minus_one,
        subtracted,
        logarithm,
    )
}
OTHERS = {"as_given": as_given}
BOOLEAN = ("masked_fill", "square_by_and", "added", "subtracted")


class Attention(nn.Module):
    """Attention that reads its mask as yes or no, and clears the states of padding."""

    def __init__(self, attention: nn.Module, way: str) -> None:
        super().__init__()
        self.qkv, self.out = attention.qkv, attention.out
        self.way = WAYS[way] if way in WAYS else OTHERS[way]

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        scores = self.way(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), mask)
        h = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.out(h if mask.ndim > 2 else h.masked_fill((mask == 0)[..., None], 0.0))


class OfBlocks(Encoder):
    """Whose mask is given to each block."""

    def __init__(self, way: str = "masked_fill", **options: object) -> None:
        super().__init__(**options)
        for block in self.blocks:
            block.attention = Attention(block.attention, way)


def batch_of(mask: Tensor) -> dict[str, Tensor]:
    return {"ids": IDS, "mask": mask}


def require_like_weights(model, mask, layers=("blocks.0",), lams=LAMS, run=None):
    """Assert outputs and gradients of a network that multiplies by the weights.

    Attaching takes most of the time, so all layers and λ are tried with one attachment.
    """
    oracle = Weighted(built(Encoder, "first"))
    run = model if run is None else run
    mixup = ManifoldMixup(run, layers, mask="mask", example=batch_of(mask), seed=0)
    for layer, lam in itertools.product(layers, lams):
        model.zero_grad()
        oracle.zero_grad()
        plan = MixPlan(layer, LAMS[lam], PERM)
        with mixup.using(plan):
            output = run(IDS, mask)
        mixup.wrap(nn.CrossEntropyLoss())(output, TARGET).backward()
        expected = oracle(plan)
        F.cross_entropy(expected, plain_labels(TARGET, CLASSES, plan)).backward()
        assert type(output) is Tensor
        torch.testing.assert_close(output, expected, msg=lambda t, of=plan: f"{of}: {t}")
        grads = {name: parameter.grad for name, parameter in oracle.model.named_parameters()}
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                parameter.grad, grads[name], msg=lambda t, of=(plan, name): f"{of}: {t}"
            )


@pytest.mark.parametrize("way", WAYS)
def test_outputs_and_gradients_are_those_of_weighted_attention(way):
    mask = VALID if way in BOOLEAN else VALID.long()
    require_like_weights(built(OfBlocks, way), mask, LAYERS)


def batch_last(scores, mask):
    """As XLNet does: of a mask (queries, keys, batch, 1) that is 1 in the padding."""
    return scores - 1e30 * torch.einsum("ijbn->bnij", mask)


OTHERS["batch_last"] = batch_last


class BatchLast(OfBlocks):
    """Gives its blocks a mask whose dimension 2 is the batch."""

    def __init__(self) -> None:
        super().__init__("batch_last")

    def read(self, mask: Tensor) -> Tensor:
        return (1 - mask.float()).T[None, :, :, None].repeat(TIME, 1, 1, 1)


def test_a_mask_may_hold_the_batch_at_another_dimension():
    model = built(BatchLast)
    rows = {row.name: row for row in find_layers(model, IDS, VALID.long())}
    assert {reader.batch_dim for reader in rows["embed"].readers if reader.forbids} == {2}
    require_like_weights(model, VALID.long(), LAYERS)


def test_a_mask_with_its_batch_elsewhere_is_refused_if_it_forbids_no_scores():
    class Weigh(nn.Module):
        def forward(self, h: Tensor, weights: Tensor) -> Tensor:
            return h * weights[0].T[..., None]

    class Weighing(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.weigh = Weigh()

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            h = self.weigh(self.embed(ids), mask.T[None].float())
            return self.head(self.pool(self.blocks[0](h, mask), mask))

    with pytest.raises(ValueError, match=r"'weigh', .* shape \(1, .*\): dimension 0 is not the b"):
        ManifoldMixup(built(Weighing), ["embed"], mask="mask", example=batch_of(VALID))


# Fused attention, given what a block computes from the mask


def fused_boolean(mask):
    return mask[:, None, None].bool()


def fused_square(mask):
    return mask[:, None, None] * mask[:, None, :, None] > 0


def fused_additive(mask):
    return (1.0 - mask[:, None, None].float()) * LEAST


def fused_filled(mask):
    return torch.zeros(mask.shape).masked_fill(mask == 0, -math.inf)[:, None, None]


class FusedAttention(Attention):
    def __init__(self, attention: nn.Module, way: Callable[[Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        self.qkv, self.out, self.way = attention.qkv, attention.out, way

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, self.way(mask))
        return self.out(h.transpose(1, 2).flatten(2))


def fused(way: Callable[[Tensor], Tensor]) -> Encoder:
    model = built(Encoder)
    for block in model.blocks:
        block.attention = FusedAttention(block.attention, way)
    return model


@pytest.mark.parametrize("form", ["long", "weights", "bool"])
@pytest.mark.parametrize("way", [fused_boolean, fused_square, fused_additive, fused_filled])
def test_fused_attention_whose_mask_is_computed_gets_the_weights(way, form):
    mask = FORMS[form]
    if form == "bool" and way is fused_boolean:  # a cast that does nothing leaves no trace
        with pytest.raises(ValueError, match="not every layer can be mixed"):
            require_like_weights(fused(way), mask)
        return
    require_like_weights(fused(way), mask)


@pytest.mark.parametrize("reentrant", [False, True])
def test_in_an_activation_checkpoint_it_is_the_same(reentrant, monkeypatch):
    import padded

    plain = padded.checkpoint
    monkeypatch.setattr(
        padded, "checkpoint", lambda *a, **k: plain(*a, **k | {"use_reentrant": reentrant})
    )
    model = built(OfBlocks, "product")
    for block in model.blocks:
        block.checkpointed = True
    require_like_weights(model, VALID.long())


class Stack(nn.Module):
    """Receives the mask once, and hands it to blocks in checkpoints."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            h = torch.utils.checkpoint.checkpoint(block, h, mask, use_reentrant=True)
        return h


class OfStack(OfBlocks):
    """Whose mask is given to a module that contains the blocks."""

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.stack = Stack(self.blocks)
        del self.blocks

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.stack(self.embed(ids) + self.places, mask)[:, 0])


@pytest.mark.parametrize("lam", LAMS)
def test_a_mask_that_goes_into_reentrant_checkpoints_keeps_its_partner(lam):
    model, oracle = built(OfStack, "product"), Weighted(built(Encoder, "first"))
    mixup = ManifoldMixup(model, ["embed"], mask="mask", example=batch_of(VALID), seed=0)
    with mixup.using(MixPlan("embed", LAMS[lam], PERM)):
        output = model(IDS, VALID)
        mixup.target(None, output)
    expected = oracle(MixPlan("embed", LAMS[lam], PERM))
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    for block, other in zip(model.stack.blocks, oracle.model.blocks, strict=True):
        torch.testing.assert_close(block.attention.qkv.weight.grad, other.attention.qkv.weight.grad)


class Squared(OfBlocks):
    """Whose own code makes the product that DeBERTa makes, (batch, 1, queries, keys)."""

    def read(self, mask: Tensor) -> Tensor:
        return mask[:, None, None] * mask[:, None, :, None]


def test_a_square_mask_weighs_keys_as_a_mask_of_keys_does():
    require_like_weights(built(Squared, "as_given"), VALID.long(), LAYERS, ["one λ"])


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("way", "lam"),
    [
        ("product", "λ per example"),
        ("where", "one λ"),
        *[
            pytest.param(way, lam, marks=pytest.mark.thorough)
            for way, lam in (
                ("product", "one λ"),
                ("where", "λ per example"),
                *itertools.product(["masked_fill"], LAMS),
            )
        ],
    ],
)
def test_compiled_in_one_graph(way, lam):
    model = built(OfBlocks, way)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    require_like_weights(model, VALID.long(), lams=[lam], run=compiled)


@pytest.mark.usefixtures("fresh_compiler", "own_as_subclass")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_in_two_graphs_is_refused_and_runs_outside_of_compiled_code():

    class Broken(Attention):
        def forward(self, h: Tensor, mask: Tensor) -> Tensor:
            mask = mask > 0
            torch._dynamo.graph_break()
            return super().forward(h, mask)

    model = built(OfBlocks)
    for block in model.blocks:
        block.attention.__class__ = Broken
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(Exception, match=r"read.* as yes or no must be compiled into one graph"):
        require_like_weights(model, VALID.long(), lams=["one λ"], run=compiled)
    model = built(OfBlocks)
    for block in model.blocks:
        block.attention.__class__ = Broken
        block.forward = torch.compiler.disable(block.forward)
    compiled = torch.compile(model, backend="eager")
    require_like_weights(model, VALID.long(), lams=["one λ"], run=compiled)


# Pooling


class AttentionPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(16, 1)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        scores = self.score(h).squeeze(-1).masked_fill(mask == 0, -math.inf)
        return (scores.softmax(1)[..., None] * h).sum(1)


def test_attention_that_pools_gets_the_weights():
    model = built(OfBlocks)
    model.pool = built(AttentionPool)
    plan = MixPlan("blocks.1", LAMS["λ per example"], PERM)
    mixup = ManifoldMixup(model, ["blocks.1"], mask="mask", example=batch_of(VALID.long()))
    with mixup.using(plan):
        output = model(IDS, VALID.long())
    own = plan.lam[:, None] * VALID
    weights = own + (1 - plan.lam)[:, None] * VALID[PERM]
    h = Weighted(built(Encoder, "first")).states("blocks.1")
    mixed = own[..., None] * h + (weights - own)[..., None] * h[PERM]
    mixed = mixed / weights[..., None].clamp(min=1e-30)
    scores = model.pool.score(mixed).squeeze(-1).exp() * weights
    pooled = (scores[..., None] * mixed).sum(1) / scores.sum(1, keepdim=True)
    torch.testing.assert_close(output, model.head(pooled))


class MaxPool(nn.Module):
    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return h.masked_fill((mask == 0)[..., None], -1e9).amax(1)


class MeanPool(nn.Module):
    """Attention and a mean in one module: the mean has no form for two masks."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = Attention(Encoder().blocks[0].attention, "masked_fill")

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = self.attend(h, mask) * mask[..., None]
        return h.sum(1) / mask.sum(1, keepdim=True)


class Unpadded(MeanPool):
    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = self.attend(h, mask)
        rows, places = (mask > 0).nonzero(as_tuple=True)
        return torch.zeros_like(h[:, 0]).index_add(0, rows, h[rows, places])


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        (MaxPool, "the outputs jump"),
        (MeanPool, "'div' reads the padding mask together with states"),
        (Unpadded, "where 'nonzero' takes numbers or positions from it"),
    ],
)
def test_other_ways_to_read_the_mask_are_refused(pool, text):
    model = built(OfBlocks)
    model.pool = built(pool)
    readers = {
        reader.layer: reader.forbids
        for row in find_layers(model, **batch_of(VALID.long()))
        for reader in row.readers
    }
    assert readers == {
        **dict.fromkeys(("blocks.0", "blocks.1"), True),
        "pool": pool is not MaxPool,
    }
    with pytest.raises(ValueError, match=text):
        ManifoldMixup(model, ["blocks.1"], mask="mask", example=batch_of(VALID.long()))


class SoftmaxByHand(Attention):
    """Forbids scores in a way that is not recognised, so that its mask becomes weights."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        scores = added(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), mask)
        shares = (scores - scores.amax(-1, keepdim=True)).exp()
        h = shares / shares.sum(-1, keepdim=True) @ v
        return self.out(h.transpose(1, 2).flatten(2))


class Normalised(SoftmaxByHand):
    """Whose gradient at padding is not a number, because it divides by a norm of 0 there."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = h * mask.unsqueeze(-1)
        return super().forward(h / (h.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6), mask)


class WeightsByHand(SoftmaxByHand):
    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        shares = (scores - scores.amax(-1, keepdim=True)).exp() * mask[:, None, None]
        h = shares / shares.sum(-1, keepdim=True) @ v
        return self.out(h.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("pool", ["first", "mean"])
def test_the_intersection_of_two_masks_is_found_out(pool):
    model = OfBlocks(pool=pool)
    for block in model.blocks:
        block.attention.__class__ = SoftmaxByHand
    with pytest.raises(ValueError, match=r"(?s)embed .*that only one.*blocks.0 .*that only one"):
        ManifoldMixup(model, LAYERS, mask="mask", example=batch_of(VALID.long()))
    for block in model.blocks:
        block.attention.__class__ = WeightsByHand
    ManifoldMixup(model, LAYERS, mask="mask", example=batch_of(VALID.long()))


class Beside(SoftmaxByHand):
    """Also runs attention that is right, and does not use it."""

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention, "masked_fill")
        self.right = copy.deepcopy(attention)
        self.right.__class__ = WeightsByHand

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        self.right(h, mask)
        return super().forward(h, mask)


class Elsewhere(Beside):
    """Uses the attention that is right, but only at the padding."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        right, wrong = self.right(h, mask), SoftmaxByHand.forward(self, h, mask)
        return torch.where((mask > 0)[..., None], wrong, right)


@pytest.mark.parametrize("kind", [Beside, Elsewhere])
def test_a_right_module_inside_another_vouches_only_for_what_depends_on_it(kind):
    model = OfBlocks(pool="mean")
    for block in model.blocks:
        block.attention = kind(block.attention)
    with pytest.raises(ValueError, match=r"(?s)embed .*that only one.*blocks.0 .*that only one"):
        ManifoldMixup(model, LAYERS, mask="mask", example=batch_of(VALID.long()))


def test_gradients_that_are_no_numbers_hide_nothing():
    model = OfBlocks(pool="mean")
    for block in model.blocks:
        block.attention.__class__ = Normalised
    with pytest.raises(ValueError, match=r"(?s)embed .*failed.*blocks.0 .*failed"):
        ManifoldMixup(model, LAYERS, mask="mask", example=batch_of(VALID.long()))


def test_weights_by_hand_are_right():
    model = built(OfBlocks)
    for block in model.blocks:
        block.attention.__class__ = WeightsByHand
    require_like_weights(model, VALID.long(), lams=["λ per example"])


# Two masks at once


def both(mask: Tensor = VALID, lam: Tensor = LAMS["one λ"]) -> MaskPair:
    return pair(mask, mask[PERM], lam)


SCORES = torch.randn(BATCH, 2, TIME, TIME, generator=torch.Generator().manual_seed(1))
WEIGHTS = 0.3 * VALID + 0.7 * VALID[PERM]
EXPECTED = SCORES.exp() * WEIGHTS[:, None, None]
EXPECTED = EXPECTED / EXPECTED.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    "masked",
    [
        lambda m: SCORES + (1.0 - m.float()[:, None, None]) * -1e9,
        lambda m: (1.0 - m.float()[:, None, None]).mul(-1e9) + SCORES,
        lambda m: SCORES + torch.where(m, 0.0, -math.inf)[:, None, None],
        lambda m: SCORES.clone().add_(m.float().log()[:, None, None]),
        lambda m: SCORES - 1e9 * (~m).float()[:, None, None],
        lambda m: (
            SCORES
            + torch.zeros_like(m, dtype=torch.float).masked_fill_(~m, -math.inf)[:, None, None]
        ),
    ],
)
def test_a_sum_with_scores_multiplies_them_by_the_weights(masked):
    torch.testing.assert_close(masked(both()).softmax(-1), EXPECTED)


@pytest.mark.parametrize("form", ["bool", "additive"])
def test_fused_attention_multiplies_by_the_weights(form):
    q, k, v = torch.randn(3, BATCH, 2, TIME, 4, generator=torch.Generator().manual_seed(2))
    mask = VALID if form == "bool" else torch.where(VALID, 0.0, -math.inf)
    weights = (q @ k.transpose(-1, -2) / 2).exp() * WEIGHTS[:, None, None]
    expected = weights / weights.sum(-1, keepdim=True) @ v
    given = both(mask)[:, None, None]
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, given), expected)
    named = F.scaled_dot_product_attention(q, k, v, attn_mask=given)
    torch.testing.assert_close(named, expected)


def test_states_are_switched_off_where_both_examples_have_padding():
    h, union = torch.randn(BATCH, TIME, 3), VALID | VALID[PERM]
    cleared = h.masked_fill(~both()[..., None], 0.0)
    torch.testing.assert_close(cleared, h * union[..., None], rtol=0, atol=0)
    torch.testing.assert_close(h * both(VALID.long())[..., None], cleared, rtol=0, atol=0)


@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0), torch.zeros(1, 1, 1)])
def test_states_that_a_number_replaces_in_padding_keep_their_values(zero):
    h, union = torch.randn(BATCH, TIME, 3), VALID | VALID[PERM]
    kept = torch.where(both()[..., None], h, zero)
    torch.testing.assert_close(kept, h * union[..., None], rtol=0, atol=0)
    kept = torch.where(~both()[..., None], zero, h)
    torch.testing.assert_close(kept, h * union[..., None], rtol=0, atol=0)


class Cleared(Attention):
    """Clears the states of padding by a tensor of one number, as x-transformers does."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = super().forward(h, mask)
        return torch.where(mask[..., None], h, torch.tensor(0.0).expand(1, 1, 1))


def test_a_module_that_also_clears_states_gets_the_weights():
    model = built(OfBlocks)
    for block in model.blocks:
        block.attention.__class__ = Cleared
    require_like_weights(model, VALID, lams=["one λ"])


def test_sizes_and_dtypes_are_the_masks_own():
    mask = both(VALID.long())
    assert (mask.shape, mask.dtype, mask.ndim, mask.size(1)) == (VALID.shape, torch.int64, 2, TIME)
    assert mask.any().item() is True


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda m: bool(m[0].all()), "'__bool__' takes numbers"),
        (lambda m: m.sum(1).tolist(), "'tolist' takes numbers"),
        (lambda m: m.sum(1).numpy(), "'numpy' takes numbers"),
        (lambda m: m.nonzero(), "'nonzero' takes numbers"),
        (lambda m: SCORES[m], "'__getitem__' reads the padding mask together with states"),
        (lambda m: SCORES @ m.float()[:, None, :, None], "'matmul' reads the padding mask"),
        (lambda m: torch.where(SCORES > 0, m[:, None, None], SCORES), "chooses between"),
        (lambda m: SCORES + (m > 0)[:, None, None], "of booleans is added to states"),
    ],
)
def test_what_cannot_be_mixed_is_refused(read, text):
    with pytest.raises(RuntimeError, match=text):
        read(both())


def heads_first(scores, mask):
    scores = scores.transpose(0, 1)
    return scores.masked_fill(mask[None, :, None] == 0, LEAST).transpose(0, 1)


def expanded(scores, mask):
    mask = mask[None].expand(2, -1, -1)[:, :, None]
    return scores.transpose(0, 1).masked_fill(mask == 0, LEAST).transpose(0, 1)


def repeated(scores, mask):
    """As for ``torch.bmm`` of all heads."""
    mask = mask.repeat_interleave(2, 0)[:, None]
    return scores.flatten(0, 1).masked_fill(mask == 0, LEAST).view_as(scores)


def transposed(scores, mask):
    scores = scores.permute(3, 2, 1, 0)
    return scores.masked_fill(mask.t()[:, None, None] == 0, LEAST).permute(3, 2, 1, 0)


def row_by_row(scores, mask):
    rows = zip(scores, mask, strict=True)
    return torch.stack([own.masked_fill(seen == 0, LEAST) for own, seen in rows])


def any_query(scores, mask):
    square = (mask[:, None] * mask[:, :, None]).any(1, keepdim=True)
    return scores.masked_fill(~square[:, None], LEAST)


def numbers_added(scores, mask):
    return torch.sub(scores, (1 - mask)[:, None, None], alpha=10_000)


def written(scores, mask):
    forbidden = torch.zeros_like(mask, dtype=scores.dtype)
    forbidden[mask == 0] = LEAST
    return scores + forbidden[:, None, None]


MOVED = (heads_first, expanded, repeated, transposed, row_by_row, any_query)
OTHERS |= {way.__name__: way for way in (*MOVED, numbers_added, written)}


@pytest.mark.parametrize("way", [way.__name__ for way in (*MOVED, numbers_added, written)])
def test_a_mask_may_be_moved_and_computed_with(way):
    require_like_weights(built(OfBlocks, way), VALID.long())


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda m: m.sum(0), "'sum' reduces a padding mask over its examples"),
        (lambda m: m + m.roll(1, 0), "combines the padding masks of different examples"),
        (lambda m: torch.kron(m, m), "'kron' makes"),
    ],
)
def test_with_a_λ_per_example_masks_of_different_examples_are_not_combined(read, text):
    with pytest.raises(RuntimeError, match=text):
        read(both(VALID.long(), lam=LAMS["λ per example"]))


def scaled_later(scores, mask):
    return scores.masked_fill(mask[:, None, None] == 0, -1e9) / 3


def sum_scaled_later(scores, mask):
    return (scores + (1.0 - mask[:, None, None].float()) * -1e9) * 0.5


def masked_twice(scores, mask):
    scores = scores.masked_fill(mask[:, None, None] == 0, -1e9)
    return scores + (1.0 - mask[:, None, None].float()) * -1e4


OTHERS |= {way.__name__: way for way in (scaled_later, sum_scaled_later, masked_twice)}


@pytest.mark.parametrize(
    ("way", "text"),
    [
        ("scaled_later", "scales attention scores after it masks them"),
        ("sum_scaled_later", "scales attention scores after it masks them"),
        ("masked_twice", "masks attention scores twice"),
    ],
)
def test_scores_that_are_masked_otherwise_than_last_and_once_are_refused(way, text):
    with pytest.raises(ValueError, match=f"by 'blocks.0', which {text}"):
        require_like_weights(built(OfBlocks, way), VALID.long(), ["embed"], ["one λ"])


class Scaling(nn.Module):
    """Adds an additive mask as it is given, and scales the sum."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.qkv, self.out = attention.qkv, attention.out

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2) + mask[:, None, None]) * 0.5
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_an_additive_mask_that_is_scaled_with_the_scores_is_refused():
    model = built(Encoder)
    for block in model.blocks:
        block.attention = Scaling(block.attention)
    with pytest.raises(ValueError, match="scales attention scores after it masks them"):
        require_like_weights(model, FORMS["additive"], lams=["one λ"])


def test_frozen_weights_are_proven_too():
    model = built(OfBlocks)
    for block in model.blocks:
        block.attention.__class__ = SoftmaxByHand
    model.requires_grad_(False)
    model.head.requires_grad_()
    with pytest.raises(ValueError, match="that only one of two examples has does not count"):
        ManifoldMixup(model, ["blocks.0"], mask="mask", example=batch_of(VALID.long()))
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "head.weight",
        "head.bias",
    ]


class Returning(OfBlocks):
    """Whose blocks hand the mask on, and which returns it."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h = self.embed(ids) + self.places
        for block in self.blocks:
            h, mask = block(h, mask), block.attention.seen
        return self.head(h[:, 0]), mask


class Keeping(Attention):
    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        self.seen = mask
        return super().forward(h, mask)


def test_a_mask_of_two_examples_does_not_leave_the_model():
    model = built(Returning)
    for block in model.blocks:
        block.attention.__class__ = Keeping
    mixup = ManifoldMixup(
        model, ["embed"], mask="mask", example=batch_of(VALID.long()), outputs="0", check=False
    )
    with pytest.raises(RuntimeError, match=r"the model returns a padding mask of shape \(6, 7\)"):
        model(IDS, VALID.long())
    mixup.remove()


class LogAndMean(nn.Module):
    """Adds the logarithm of weights to scores, and takes a mean by the same weights."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = Attention(attention, "logarithm")

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = self.attention(h, mask) * mask[..., None]
        return h + h.sum(1, keepdim=True) / mask.sum(1)[:, None, None]


def test_weights_that_are_used_as_such_stay_weights():
    model = built(Encoder)
    for block in model.blocks:
        block.attention = LogAndMean(block.attention)
    ManifoldMixup(model, ["embed"], mask="mask", example=batch_of(VALID.float()))


class WhereMask(nn.Module):
    """Attention that chooses by a boolean mask."""

    def forward(self, h, mask):
        scores = h @ h.transpose(1, 2) + torch.where(mask, 0.0, -torch.inf)[:, None, :]
        return scores.softmax(-1) @ h


class InvertedMask(nn.Module):
    def forward(self, h, mask):
        return h.masked_fill(~mask[..., None], 0.0)


class WeightedMean(nn.Module):
    def forward(self, h, mask):
        weights = mask.to(h.dtype)[..., None]
        return (weights * h).sum(1) / weights.sum(1)


class ChoosesByMask(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.stem, self.attend, self.pool = nn.Linear(4, 8), attend, WeightedMean()

    def forward(self, x, mask):
        return self.pool(self.attend(self.stem(x), mask), mask)


@pytest.mark.parametrize("kind", [WhereMask, InvertedMask])
def test_a_boolean_mask_that_a_module_chooses_by_is_refused_with_the_way_out(kind):
    x, mask = torch.randn(4, 5, 4), torch.arange(5) < torch.tensor([5, 3, 4, 2])[:, None]
    says = r"oolean(.|\n)*Pass the mask as integers, mask\.long\(\)"
    with pytest.raises(ValueError, match=says):
        ManifoldMixup(ChoosesByMask(kind()), ["stem"], mask="mask", example=(x, mask))
