"""Padded sequences: masks mixed too, exact at both ends of λ, blind to what the padding holds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from architectures import bert
from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup import _masks as masks

BATCH, TIME, WIDTH, CLASSES = 6, 7, 16, 3
LENGTHS = torch.tensor([7, 5, 2, 6, 3, 4])
VALID = torch.arange(TIME) < LENGTHS[:, None]  # (batch, time)
IDS = torch.randint(1, 30, (BATCH, TIME), generator=torch.Generator().manual_seed(0))
PERM = torch.tensor([2, 0, 1, 5, 3, 4])
TARGET = torch.arange(BATCH) % CLASSES
LEAST = torch.finfo(torch.float32).min

FORMS = {
    "bool": VALID,
    "long": VALID.long(),
    "pad": ~VALID,
    "weights": VALID.float(),
    "additive": torch.where(VALID, 0.0, -math.inf),
    "bool 4-D": VALID[:, None, None],
    "bool square": VALID[:, None, None].expand(BATCH, 1, TIME, TIME),
    "additive 4-D": torch.where(VALID, 0.0, LEAST)[:, None, None],
    "causal": VALID[:, None, None] & torch.ones(TIME, TIME).tril().bool(),
}


# An encoder of our own, which reads masks of every form


class Attention(nn.Module):
    """Reads a mask as PyTorch does: booleans say who is seen, numbers are added."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mask = mask[:, None, None] if mask.ndim == 2 else mask
        return self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.checkpointed = checkpointed

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        if self.checkpointed:
            h = h + checkpoint(self.attention, self.norm1(h), mask, use_reentrant=False)
        else:
            h = h + self.attention(self.norm1(h), mask)
        return h + self.mlp(self.norm2(h))


class First(nn.Module):
    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return h[:, 0]


class Mean(nn.Module):
    """Takes a mask of weights, or booleans that it only multiplies by."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        weights = mask.flatten(1, -2)[:, -TIME:] if mask.ndim > 2 else mask
        return (h * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


class Encoder(nn.Module):
    def __init__(self, pool: str = "first", checkpointed: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, WIDTH)
        self.places = nn.Parameter(torch.randn(TIME, WIDTH))
        self.blocks = nn.ModuleList(Block(checkpointed) for _ in range(3))
        self.pool = First() if pool == "first" else Mean()
        self.head = nn.Linear(WIDTH, CLASSES)

    def read(self, mask: Tensor) -> Tensor:
        return mask

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids) + self.places
        for block in self.blocks:
            h = block(h, self.read(mask))
        return self.head(self.pool(h, mask))


class Integers(Encoder):
    """Takes integers or weights and gives its blocks booleans."""

    def read(self, mask: Tensor) -> Tensor:
        return mask > 0


class PadEncoder(nn.Module):
    """PyTorch's own, whose mask says where padding is."""

    def __init__(self, pool: str = "first") -> None:
        super().__init__()
        self.embed = nn.Embedding(30, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        h = self.encoder(self.embed(ids), src_key_padding_mask=src_key_padding_mask)
        return self.head(h[:, 0])


OWN = ["embed", "blocks.0", "blocks.1", "blocks.2"]


def built(kind: type[nn.Module], *args: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*args)


def own(form: str, pool: str = "first", checkpointed: bool = False) -> tuple[nn.Module, dict]:
    """Make a model that reads a mask of this form, and a batch for it."""
    if form == "pad":
        return built(PadEncoder), {"ids": IDS, "src_key_padding_mask": FORMS[form]}
    kind = Integers if form in ("long", "weights") else Encoder
    return built(kind, pool, checkpointed), {"ids": IDS, "mask": FORMS[form]}


def name_of(batch: dict) -> str:
    return next(name for name in batch if "mask" in name)


def with_other_padding(batch: dict, lost: Tensor) -> dict:
    return {**batch, "ids": torch.where(lost, (batch["ids"] + 7) % 29 + 1, batch["ids"])}


def layers_of(model: nn.Module, batch: dict) -> list[str]:
    """Every place to mix before the mask is read for the last time."""
    table = find_layers(model, **batch).with_mask(name_of(batch))
    return [row.name for row in table.cuts if row.readers]


def run(model: nn.Module, mixup: ManifoldMixup, plan: MixPlan, batch: dict) -> Tensor:
    with mixup.using(plan):
        return model(**batch)


def require_exact(model: nn.Module, batch: dict, run_model: object = None) -> None:
    """The three proofs, at every layer: λ = 0, λ = 1, and other things in the padding."""
    names = layers_of(model, batch)
    assert len(names) > 2
    callee = model if run_model is None else run_model
    model.eval()
    mixup = ManifoldMixup(callee, names, example=batch, mask=name_of(batch), check=False)
    plain = callee(**batch)
    other = with_other_padding(batch, ~VALID)
    assert (plain - plain[PERM]).abs().amax(1).min() > 2e-4
    for name in names:
        permuted = run(callee, mixup, MixPlan(name, torch.tensor(0.0), PERM), batch)
        torch.testing.assert_close(permuted, plain[PERM], rtol=0, atol=2e-6)
        same = run(callee, mixup, MixPlan(name, torch.tensor(1.0), PERM), batch)
        torch.testing.assert_close(same, plain, rtol=0, atol=2e-6)
        plan = MixPlan(name, torch.tensor(0.3), PERM)
        mixed = run(callee, mixup, plan, batch)
        assert (mixed - plain).abs().max() > 1e-4
        torch.testing.assert_close(run(callee, mixup, plan, other), mixed, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("long", "weights")])
def test_exact_at_every_layer_for_masks_of_every_form(form):
    require_exact(*own(form))


# Against another account of the same network: attention multiplies by the weights


class Weighted(nn.Module):
    """Runs an `Encoder` from a mixed state on, by weights and plain softmaxes."""

    def __init__(self, model: Encoder) -> None:
        super().__init__()
        self.model = model

    def states(self, layer: str) -> Tensor:
        h = self.model.embed(IDS)
        if layer == "embed":
            return h
        h = h + self.model.places
        for place in range(int(layer[-1]) + 1):
            h = self.block(self.model.blocks[place], h, VALID.float())
        return h

    def block(self, block: Block, h: Tensor, weights: Tensor) -> Tensor:
        normed = block.norm1(h)
        parts = block.attention.qkv(normed).unflatten(-1, (3, 2, -1))
        q, k, v = (parts[:, :, part].transpose(1, 2) for part in range(3))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).exp() * weights[:, None, None]
        attended = scores / scores.sum(-1, keepdim=True) @ v
        h = h + block.attention.out(attended.transpose(1, 2).flatten(2))
        return h + block.mlp(block.norm2(h))

    def forward(self, plan: MixPlan) -> Tensor:
        h, lam = self.states(plan.layer), plan.lam.view(-1, 1) if plan.lam.ndim else plan.lam
        own, other = lam * VALID, (1 - lam) * VALID[plan.perm]
        weights = own + other
        mean = (own[..., None] * h + other[..., None] * h[plan.perm]) / weights[..., None].clamp(
            min=1e-30
        )
        h = torch.where(weights[..., None] > 0, mean, h)
        blocks = list(self.model.blocks)[0 if plan.layer == "embed" else int(plan.layer[-1]) + 1 :]
        if plan.layer == "embed":
            h = h + self.model.places
        for block in blocks:
            h = self.block(block, h, weights)
        if isinstance(self.model.pool, First):
            return self.model.head(h[:, 0])
        return self.model.head((h * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))


@pytest.mark.parametrize("layer", OWN)
@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_outputs_and_gradients_are_those_of_weighted_attention(
    layer, pool, per_sample, checkpointed
):
    model, batch = own("bool", pool, checkpointed)
    oracle = Weighted(own("bool", pool)[0])
    layers = OWN if pool == "mean" else OWN[:-1]
    if layer not in layers:
        pytest.skip("nothing reads the mask after it")
    lam = torch.rand(BATCH if per_sample else (), generator=torch.Generator().manual_seed(1))
    plan = MixPlan(layer, lam, PERM)
    mixup = ManifoldMixup(model, layers, mask="mask", example=batch, seed=0)
    output = run(model, mixup, plan, batch)
    mixup.wrap(nn.CrossEntropyLoss())(output, TARGET).backward()
    expected = oracle(plan)
    soft = F.one_hot(TARGET, CLASSES).float()
    mixed = soft + (1 - lam).view(-1, *[1] * lam.ndim) * (soft[PERM] - soft)
    F.cross_entropy(expected, mixed).backward()
    torch.testing.assert_close(output, expected)
    for (name, one), two in zip(model.named_parameters(), oracle.model.parameters(), strict=True):
        torch.testing.assert_close(
            one.grad, two.grad, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["bool", "pad", "additive", "bool square"])
def test_compiled_it_does_the_same(form, fresh_compiler):
    model, batch = own(form)
    names = [name for name in layers_of(model, batch) if name.count(".") < 2][:3]
    eager = ManifoldMixup(model.eval(), names, example=batch, mask=name_of(batch), check=False)
    plans = [MixPlan(name, torch.tensor(0.3), PERM) for name in names]
    expected = [run(model, eager, plan, batch) for plan in plans]
    eager.remove()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, names, example=batch, mask=name_of(batch), check=False)
    for plan, output in zip(plans, expected, strict=True):
        torch.testing.assert_close(run(compiled, mixup, plan, batch), output)


@pytest.mark.slow
def test_compiled_training_without_an_example_looks_first(fresh_compiler):
    model, batch = own("bool")
    compiled = torch.compile(model, backend="aot_eager")
    compiled(**batch)  # code without any hook
    mixup = ManifoldMixup(compiled, ["blocks.0", "blocks.1"], mask="mask", seed=0)
    oracle = Weighted(own("bool")[0])
    for _ in range(6):
        output = compiled(**batch)
        torch.testing.assert_close(output, oracle(mixup.plan))
        mixup.wrap(nn.CrossEntropyLoss())(output, TARGET).backward()


# Hugging Face


def hugging_face(kind: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    if kind == "bert":
        return bert()
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=30, dim=32, n_layers=3, n_heads=2, hidden_dim=48, max_position_embeddings=16
        )
        return transformers.DistilBertForSequenceClassification(config)
    config = transformers.ModernBertConfig(
        vocab_size=30, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=2, global_attn_every_n_layers=2, local_attention=4, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    return transformers.ModernBertForSequenceClassification(config)


class MeanOf(nn.Module):
    """An encoder of Hugging Face and a mean over what is no padding, by a module of its own."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.pool, self.head = encoder, Mean(), nn.Linear(32, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        h = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(self.pool(h, attention_mask))


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = self.model(input_ids=ids, attention_mask=attention_mask)
        return getattr(output, "logits", output)


@pytest.mark.parametrize(("pool", "implementation"), [("first", "sdpa"), ("mean", "eager")])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
def test_exact_at_every_layer_of_hugging_face_encoders(kind, pool, implementation):
    model = hugging_face(kind)
    model.set_attn_implementation(implementation)
    model = model if pool == "first" else MeanOf(model.base_model)
    require_exact(Logits(model), {"ids": IDS, "attention_mask": VALID.long()})


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
def test_hugging_face_gradient_checkpointing():
    batch = {"input_ids": IDS, "attention_mask": VALID.long()}
    grads = []
    for checkpointing in (False, True):
        model = hugging_face("bert")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        mixup = ManifoldMixup(
            model, ["bert.encoder.layer.1"], mask="attention_mask", example=batch, seed=0
        )
        torch.manual_seed(1)  # of the dropout
        output = model.train()(**batch).logits
        mixup.wrap(nn.CrossEntropyLoss())(output, TARGET % 2).backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*grads)


def test_a_mask_that_all_blocks_are_given_is_mixed_once(monkeypatch):
    batch = {"input_ids": IDS, "attention_mask": VALID.long()}
    model = hugging_face("bert")
    mixup = ManifoldMixup(model, ["bert.encoder.layer.0"], example=batch, mask="attention_mask")
    calls, mix_mask = [], masks.mix_mask
    monkeypatch.setattr(masks, "mix_mask", lambda *a, **k: calls.append(1) or mix_mask(*a, **k))
    run(model, mixup, MixPlan("bert.encoder.layer.0", torch.tensor(0.3), PERM), batch)
    assert len(calls) == 1


# The parts


@given(
    st.floats(0, 1, width=32),
    st.integers(0, 2**16),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_additive_masks_mix_what_they_stand_for(lam, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randn(BATCH, 1, TIME, TIME, generator=generator, dtype=dtype)
    mask = mask.masked_fill(torch.rand(mask.shape, generator=generator) < 0.3, -math.inf)
    mixed = masks.mix_mask(mask, torch.tensor(lam), PERM, VALID, dtype=torch.float32, weights=False)
    assert mixed.dtype == dtype
    assert mixed.isfinite().all()
    lam = torch.tensor(lam).double()
    expected = lam * mask.double().exp() + (1 - lam) * mask[PERM].double().exp()
    torch.testing.assert_close(mixed.double().exp(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_booleans_become_finite_logarithms(dtype):
    lam = torch.tensor(0.25)
    mixed = masks.mix_mask(VALID, lam, PERM, VALID, dtype=dtype, weights=False)
    assert mixed.dtype == dtype
    assert mixed.isfinite().all()
    weights = 0.25 * VALID.double() + 0.75 * VALID[PERM].double()
    torch.testing.assert_close(mixed.double().exp(), weights, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_what_is_present(form):
    name = "pad_mask" if form == "pad" else "mask"
    assert torch.equal(masks.valid_positions(FORMS[form], name), VALID)
    full = {"pad": VALID.logical_xor(VALID), "additive": torch.zeros(BATCH, TIME)}
    everything = full.get(form, torch.ones(BATCH, TIME))
    assert masks.valid_positions(everything, name).all()


@pytest.mark.parametrize("form", FORMS)
def test_shortened_masks_differ_between_neighbours(form):
    name = "pad_mask" if form == "pad" else "mask"
    full = {"pad": torch.zeros(4, 10).bool(), "additive": torch.zeros(4, 10)}
    mask = full.get(form, torch.ones(4, 10, dtype=FORMS[form].dtype))
    assert masks.valid_positions(masks.shortened(mask, name), name).sum(1).tolist() == [10, 8, 6, 4]
    shorter = masks.valid_positions(masks.shortened(FORMS[form], name), name)
    assert shorter.any(1).all()
    assert not (shorter & ~VALID).any()


def test_states_take_gradients_of_their_weights():
    x = torch.randn(BATCH, TIME, 2, dtype=torch.float64, requires_grad=True)
    lam = torch.rand(BATCH)
    assert torch.autograd.gradcheck(lambda x: masks.mix_states(x, lam, PERM, VALID), x)
    assert torch.autograd.gradgradcheck(lambda x: masks.mix_states(x, lam, PERM, VALID), x)


def test_where_nothing_is_padding_it_is_the_plain_mix():
    x, plan = torch.randn(BATCH, TIME, 5), MixPlan("x", torch.tensor(0.3), PERM)
    full = torch.ones(BATCH, TIME).bool()
    from manifold_mixup import mix

    assert torch.equal(masks.mix_states(x, plan.lam, plan.perm, full), mix(x, plan))


# How it is asked for, and refused


def test_without_a_mask_the_refusal_says_how_to_mix_it():
    model, batch = own("bool")
    with pytest.raises(ValueError, match=r"'mask' is still read after it; mask='mask' mixes it"):
        ManifoldMixup(model, ["blocks.0"], example=batch)
    with pytest.raises(ValueError, match=r"With mask='mask' it is mixed too"):
        ManifoldMixup(model, example=batch)
    assert ManifoldMixup(model, example=batch, mask="mask").layers == ("blocks.0", "blocks.1")


def test_a_batch_without_padding_or_without_a_mask_is_mixed_plainly():
    model = hugging_face("bert")
    mixup = ManifoldMixup(model, ["bert.encoder.layer.1"], mask="attention_mask", seed=0)
    plain = model(input_ids=IDS).logits
    mixup.wrap(nn.CrossEntropyLoss())(plain, TARGET % 2).backward()
    padded = {"input_ids": IDS, "attention_mask": VALID.long()}
    model(**padded)  # seen for the first time, and looked at
    model.eval()
    plan = MixPlan("bert.encoder.layer.1", torch.tensor(0.0), PERM)
    torch.testing.assert_close(
        run(model, mixup, plan, padded).logits, model(**padded).logits[PERM], rtol=0, atol=2e-6
    )


class InTheModel(Encoder):
    """Takes the mean in its own forward, where no mask can be put in."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, mask)
        return self.head((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def test_a_mask_read_outside_of_modules_is_refused():
    batch = {"ids": IDS, "mask": VALID}
    with pytest.raises(
        ValueError, match="outside the modules that receive it: move that code into"
    ):
        ManifoldMixup(built(InTheModel), ["blocks.0"], example=batch, mask="mask")


class Union(Attention):
    """Takes all that is not 0 for seen."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return super().forward(h, mask > -1e29 if mask.is_floating_point() else mask)


def test_a_module_that_reads_the_union_is_found_out():
    model, batch = own("bool")
    model.blocks[2].attention.__class__ = Union
    with pytest.raises(ValueError, match=r"blocks.1.*failed.*jump"):
        ManifoldMixup(model, ["blocks.1"], example=batch, mask="mask")


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        ("attention", ValueError, "forward of Encoder has no argument 'attention'"),
        (VALID, TypeError, "mask must be the name of a model argument.*but is a Tensor"),
    ],
)
def test_bad_names(mask, error, text):
    model, _ = own("bool")
    with pytest.raises(error, match=text):
        ManifoldMixup(model, ["blocks.0"], mask=mask)


def test_an_example_without_the_mask_is_refused():
    model = hugging_face("bert")
    with pytest.raises(
        ValueError, match=r"mask='attention_mask' names no input .* are 'input_ids'"
    ):
        ManifoldMixup(model, example={"input_ids": IDS}, mask="attention_mask")


class Series(nn.Module):
    """Floating input, padded: the input itself can be mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, valid)
        return self.head(h[:, 0])


@pytest.mark.parametrize("form", ["bool", "additive"])
def test_a_padded_input_is_mixed_likewise_whatever_the_mask_is_called(form):
    model, x = built(Series).eval(), torch.randn(BATCH, TIME, 5)
    batch = {"x": x, "valid": FORMS[form]}
    mixup = ManifoldMixup(model, ["input", "stem"], example=batch, mask="valid")
    assert mixup.verify(**batch).ok
    plain = model(**batch)
    for layer in ("input", "stem"):
        plan = MixPlan(layer, torch.tensor(0.0), PERM)
        torch.testing.assert_close(run(model, mixup, plan, batch), plain[PERM])
        plan = MixPlan(layer, torch.tensor(0.3), PERM)
        other = {**batch, "x": torch.where(VALID[..., None], x, 7.0)}
        torch.testing.assert_close(run(model, mixup, plan, other), run(model, mixup, plan, batch))


class Dropped(Encoder):
    """Leaves its second block out when it is told to."""

    drop = False

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids)
        for place, block in enumerate(self.blocks):
            if not (self.drop and place == 1):
                h = block(h, mask)
        return self.head(self.pool(h, mask))


def test_a_skipped_layer_leaves_the_masks_alone():
    model = built(Dropped)
    batch, plain = {"ids": IDS, "mask": VALID}, built(Dropped)
    mixup = ManifoldMixup(model, ["blocks.1"], example=batch, mask="mask", seed=0)
    model(**batch)
    model.drop = plain.drop = True
    assert torch.equal(model(**batch), plain(**batch))
    assert mixup.skipped == 1


def test_removal_takes_the_mask_hooks_away():
    model, batch = own("bool")
    before = [(dict(vars(module)), len(module._forward_pre_hooks)) for module in model.modules()]
    mixup = ManifoldMixup(model, ["blocks.0"], example=batch, mask="mask")
    assert any(module._forward_pre_hooks for module in model.blocks)
    mixup.remove()
    after = [(dict(vars(module)), len(module._forward_pre_hooks)) for module in model.modules()]
    assert [set(state) for state, _ in after] == [set(state) for state, _ in before]
    assert not any(count for _, count in after)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_under_autocast(dtype):
    model, batch = own("bool")
    mixup = ManifoldMixup(model, ["blocks.0"], example=batch, mask="mask")
    plan = MixPlan("blocks.0", torch.tensor(0.0), PERM)
    with torch.autocast("cpu", dtype), torch.no_grad():
        plain, permuted = model(**batch), run(model, mixup, plan, batch)
    torch.testing.assert_close(permuted, plain[PERM], rtol=0, atol=0.02)
