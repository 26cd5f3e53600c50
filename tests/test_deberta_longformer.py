"""DeBERTa, Longformer, XLNet, which read their mask as yes or no: proven, the same by hand."""

import functools
import math

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup, MixPlan

ROWS, TIME, WINDOW, HEADS = 6, 8, 4, 2
PERM = torch.tensor([3, 5, 1, 0, 2, 4])
LENGTHS = torch.tensor([8, 5, 3, 6, 4, 7])
VALID = torch.arange(TIME) < LENGTHS[:, None]
WORDS = torch.randint(3, 30, (ROWS, TIME), generator=torch.Generator().manual_seed(0))
PADDED = {"input_ids": torch.where(VALID, WORDS, 1), "attention_mask": VALID.long()}
FULL = {"input_ids": WORDS, "attention_mask": torch.ones_like(WORDS)}

SIZES = {"vocab_size": 30, "num_labels": 3, "pad_token_id": 1, "hidden_size": 16}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 24}
SIZES |= {"max_position_embeddings": 32}
RELATIVE = SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
KINDS = {
    "deberta": ("Deberta", RELATIVE),
    "deberta-v2": ("DebertaV2", RELATIVE | {"position_buckets": 4}),
    "longformer": ("Longformer", SIZES | {"attention_window": WINDOW}),
}
THOROUGH = pytest.mark.thorough


def built(kind: str, **more: int) -> nn.Module:
    name, sizes = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**sizes | more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForSequenceClassification")(config)
        for parameter in model.parameters():  # so that attention is far from uniform
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return model.eval()


@functools.cache
def attached(kind: str) -> tuple[nn.Module, ManifoldMixup]:
    """Return a model that mixes padded batches at both layers; to prove them takes a second."""
    model = built(kind)
    options = {"mask": "attention_mask", "outputs": "logits", "example": PADDED, "seed": 0}
    return model, ManifoldMixup(model, layers_of(model), **options)


def layers_of(model: nn.Module) -> list[str]:
    body = model.base_model_prefix
    return [f"{body}.embeddings", f"{body}.encoder.layer.0"]


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        *((kind, PADDED) for kind in KINDS),
        pytest.param("deberta", FULL, marks=THOROUGH),
        ("deberta-v2", FULL),
        pytest.param("longformer", FULL, marks=THOROUGH),
    ],
    ids=[f"{kind}-{rows}" for rows in ("padded", "full") for kind in KINDS],
)
def test_every_block_is_proven_and_exact_at_both_ends(kind, batch):
    model, mixup = attached(kind)
    if batch is not PADDED:
        model = built(kind)
        mask = {"mask": "attention_mask", "outputs": "logits"}
        mixup = ManifoldMixup(model, layers_of(model), example=batch, **mask)
    assert mixup.verify(**batch).ok
    held = batch["attention_mask"].bool()
    other = {**batch, "input_ids": torch.where(held, batch["input_ids"], 1 + WORDS % 29)}
    with torch.no_grad():
        plain = model(**batch).logits
        assert (plain - plain[PERM]).abs().amax(1).min() > 1e-2
        for layer in mixup.layers:
            mixed = {}
            for lam in (0.0, 0.3, 1.0):
                with mixup.using(MixPlan(layer, torch.tensor(lam), PERM)):
                    mixed[lam] = model(**batch).logits
                    if kind != "longformer":  # which finds positions in the ids
                        torch.testing.assert_close(model(**other).logits, mixed[lam])
            torch.testing.assert_close(mixed[0.0], plain[PERM])
            torch.testing.assert_close(mixed[1.0], plain)
            assert (mixed[0.3] - plain).abs().max() > 1e-2


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("deberta", marks=THOROUGH),
        "deberta-v2",
        pytest.param("longformer", marks=THOROUGH),
    ],
)
def test_the_automatic_choice_takes_blocks(kind):
    model = built(kind, num_hidden_layers=3)
    mixup = ManifoldMixup(model, mask="attention_mask", outputs="logits", example=PADDED)
    assert [name.split(".")[-2:] for name in mixup.layers] == [["layer", "0"], ["layer", "1"]]


# By hand: everything after the mix with plain arithmetic, or with a softmax of weights


def mixed_by_hand(h: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mixed states, and the weight of each position."""
    lam = lam.view(-1, 1)
    own, other = lam * VALID, (1 - lam) * VALID[PERM]
    mean = own[..., None] * h + other[..., None] * h[PERM]
    weights = own + other
    mean = mean / weights[..., None].clamp(min=1e-30)
    return torch.where(weights[..., None] > 0, mean, h), weights


def deberta_by_hand(model: nn.Module, layer: int, lam: Tensor) -> Tensor:
    """Run with a softmax that multiplies by the weights; the mask itself forbids nothing."""
    body = model.base_model
    mask, plain = PADDED["attention_mask"], F.softmax
    h = body.embeddings(PADDED["input_ids"], mask=mask)
    square = mask[:, None, None] * mask[:, None, :, None]
    more = {"relative_pos": body.encoder.get_rel_pos(h)}
    more["rel_embeddings"] = body.encoder.get_rel_embedding()
    for block in list(body.encoder.layer)[: layer + 1]:
        h = block(h, square, **more)[0]
    h, weights = mixed_by_hand(h, lam)

    def softmax(scores: Tensor, dim: int) -> Tensor:
        return plain(scores + weights.log().clamp(min=-1e9)[:, None, None], dim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "softmax", softmax)
        for block in list(body.encoder.layer)[layer + 1 :]:
            h = block(h, torch.ones_like(square), **more)[0]
    h = model.pooler(h) if hasattr(model, "pooler") else h[:, 0]
    return model.classifier(h)


def longformer_by_hand(model: nn.Module, layer: int, lam: Tensor) -> Tensor:
    """Run all blocks with attention over pairs of positions, of which some are in no window."""
    body, weights = model.base_model, VALID.float()
    h = body.embeddings(PADDED["input_ids"])
    for number, block in enumerate(body.encoder.layer):
        if number == layer + 1:
            h, weights = mixed_by_hand(h, lam)
        attended = block.attention.output(attend(block.attention.self, h, weights), h)
        h = block.output(block.intermediate(attended), attended)
    return model.classifier(h)


def attend(attention: nn.Module, h: Tensor, weights: Tensor) -> Tensor:
    """Attend to a window and the first position, which itself attends to all positions."""
    places = torch.arange(TIME)
    window = (places - places[:, None]).abs() <= WINDOW // 2
    window[:, 0] = True
    near = attention.query, attention.key, attention.value
    far = attention.query_global, attention.key_global, attention.value_global
    local = softmax_of(near, h, weights[:, None] * window)
    everywhere = softmax_of(far, h, weights[:, None].expand(-1, TIME, -1))
    return torch.where((places == 0)[:, None], everywhere, local)


def softmax_of(parts: tuple[nn.Module, ...], h: Tensor, weights: Tensor) -> Tensor:
    q, k, v = (part(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).exp() * weights[:, None]
    shares = scores / scores.sum(-1, keepdim=True).clamp(min=1e-30)
    return (shares @ v).transpose(1, 2).flatten(2)


LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0, 1, ROWS)}


# Before two blocks, and before one.
QUICK = [(-1, "λ per example"), (0, "one λ")]


@pytest.mark.parametrize(
    ("layer", "lam"),
    [
        pytest.param(layer, lam, marks=() if (layer, lam) in QUICK else THOROUGH)
        for layer in (-1, 0)
        for lam in LAMS
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_weighted_attention(kind, layer, lam):
    (model, mixup), oracle = attached(kind), built(kind)
    model.zero_grad()
    name = layers_of(model)[layer + 1]
    with mixup.using(MixPlan(name, LAMS[lam], PERM)):
        output = model(**PADDED).logits
    by_hand = longformer_by_hand if kind == "longformer" else deberta_by_hand
    expected = by_hand(oracle, layer, LAMS[lam])
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    mixup.target(None, output)
    output.square().sum().backward()
    expected.square().sum().backward()
    others = dict(oracle.named_parameters())
    for name, parameter in model.named_parameters():
        own, other = parameter.grad, others[name].grad
        if own is None or other is None:
            assert not any(grad is not None and grad.any() for grad in (own, other)), name
        else:
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize(
    ("kind", "reentrant"),
    [
        ("deberta-v2", False),
        ("deberta-v2", True),
        pytest.param("longformer", False, marks=THOROUGH),
        pytest.param("longformer", True, marks=THOROUGH),
    ],
)
def test_gradient_checkpointing(kind, reentrant):
    grads = []
    for checkpointing in (False, True):
        model, mixup = attached(kind)
        if checkpointing:
            model = built(kind)
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            options = {"mask": "attention_mask", "outputs": "logits", "example": PADDED}
            mixup = ManifoldMixup(model, layers_of(model), **options)
        model.train().zero_grad()
        for layer in mixup.layers:
            torch.manual_seed(1)  # for the dropout
            with mixup.using(MixPlan(layer, LAMS["one λ"], PERM)):
                output = model(**PADDED).logits
            mixup.target(None, output)
            output.square().sum().backward()
        grads.append([parameter.grad for parameter in model.eval().parameters()])
    torch.testing.assert_close(*grads)


def test_global_positions_of_the_user_s_are_a_second_mask_and_refused():
    model = built("longformer")
    batch = PADDED | {"global_attention_mask": WORDS % 2}
    with pytest.raises(ValueError, match="'attention_mask' and 'global_attention_mask' are still"):
        ManifoldMixup(model, [layers_of(model)[1]], mask="attention_mask", example=batch)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler of PyTorch 2.10 reads it
@pytest.mark.usefixtures("fresh_compiler", "own_as_subclass")
@pytest.mark.parametrize("lam", [pytest.param("one λ", marks=THOROUGH), "λ per example"])
def test_deberta_compiled(lam):
    model = built("deberta-v2")
    layer = layers_of(model)[1]
    options = {"mask": "attention_mask", "outputs": "logits", "example": PADDED}
    plan = MixPlan(layer, LAMS[lam], PERM)
    with ManifoldMixup(model, [layer], **options) as mixup, mixup.using(plan):
        expected = model(**PADDED).logits
    compiled = torch.compile(model, backend="aot_eager")
    with ManifoldMixup(compiled, [layer], **options).using(plan):
        torch.testing.assert_close(compiled(**PADDED).logits, expected)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_xlnet_whose_mask_holds_the_batch_at_dimension_2(lam):
    sizes = {"vocab_size": 30, "d_model": 16, "n_layer": 2, "n_head": HEADS, "d_inner": 24}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.XLNetForSequenceClassification(
            transformers.XLNetConfig(**sizes)
        ).eval()
    held = torch.arange(7) >= torch.tensor([[0], [3], [5], [1]])  # padded at the left
    ids = torch.randint(3, 30, (4, 7), generator=torch.Generator().manual_seed(0)) * held
    batch, perm = {"input_ids": ids, "attention_mask": held.long()}, torch.tensor([1, 2, 3, 0])
    layers, given = ["transformer.layer.0"], {"mask": "attention_mask", "outputs": "logits"}
    mixup = ManifoldMixup(model, layers, example=batch, **given)
    plain = model(**batch).logits
    for lams in (torch.tensor(lam), torch.full((4,), lam)):
        with mixup.using(MixPlan("transformer.layer.0", lams, perm)):
            mixed = model(**batch).logits
        torch.testing.assert_close(mixed, plain if lam else plain[perm])
