"""Padded sequences with mixed masks: exact at λ = 0 and 1, and independent of padding values."""

import functools
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup import _masks as masks
from padded import (
    BATCH,
    CLASSES,
    FORMS,
    IDS,
    OWN,
    PERM,
    TARGET,
    TIME,
    VALID,
    WIDTH,
    Attention,
    Block,
    Encoder,
    Mean,
    Weighted,
    built,
    own,
)
from zoo import plain_labels

THOROUGH = pytest.mark.thorough
HALVES = torch.arange(len(PERM)) % (len(PERM) // 2)  # the first half of the batch, twice


def name_of(batch: dict) -> str:
    return next(name for name in batch if "mask" in name)


def with_other_padding(batch: dict, lost: Tensor) -> dict:
    return {**batch, "ids": torch.where(lost, (batch["ids"] + 7) % 29 + 1, batch["ids"])}


def layers_of(model: nn.Module, batch: dict) -> list[str]:
    """Return all valid layers before the last reader of the mask."""
    table = find_layers(model, **batch).with_mask(name_of(batch))
    return [row.name for row in table.cuts if row.readers]


def run(model: nn.Module, mixup: ManifoldMixup, plan: MixPlan, batch: dict) -> Tensor:
    with mixup.using(plan):
        return model(**batch)


def require_exact(model: nn.Module, batch: dict, run_model: object = None) -> None:
    """Assert what holds at every layer: at λ = 0, at λ = 1, of copies, and of padding values."""
    names = layers_of(model, batch)
    assert len(names) > 1
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
        copies = {key: value[HALVES] for key, value in batch.items()}
        of_copies = MixPlan(name, torch.tensor(0.5), torch.arange(len(PERM)).roll(len(PERM) // 2))
        same = run(callee, mixup, of_copies, copies)
        torch.testing.assert_close(same, plain[HALVES], rtol=0, atol=2e-6)
        plan = MixPlan(name, torch.tensor(0.3), PERM)
        mixed = run(callee, mixup, plan, batch)
        assert (mixed - plain).abs().max() > 1e-4
        torch.testing.assert_close(run(callee, mixup, plan, other), mixed, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("long", "weights")])
def test_exact_at_every_layer_for_masks_of_every_form(form):
    require_exact(*own(form))


# Compared with another form of the same network: attention multiplies by the weights


@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_outputs_and_gradients_are_those_of_weighted_attention(pool, checkpointed):
    model, batch = own("bool", pool, checkpointed)
    oracle = Weighted(own("bool", pool)[0])
    # The first position is taken without a look at the mask: nothing reads it after the last block.
    layers = OWN if pool == "mean" else OWN[:-1]
    mixup = ManifoldMixup(model, layers, mask="mask", example=batch, seed=0)
    for layer, size in itertools.product(layers, ((), (BATCH,))):
        model.zero_grad()
        oracle.zero_grad()
        lam = torch.rand(size, generator=torch.Generator().manual_seed(1))
        plan = MixPlan(layer, lam, PERM)
        output = run(model, mixup, plan, batch)
        mixup.wrap(nn.CrossEntropyLoss())(output, TARGET).backward()
        expected = oracle(plan)
        F.cross_entropy(expected, plain_labels(TARGET, CLASSES, plan)).backward()
        torch.testing.assert_close(output, expected, msg=lambda text, of=plan: f"{of}: {text}")
        for (name, one), two in zip(
            model.named_parameters(), oracle.model.parameters(), strict=True
        ):
            torch.testing.assert_close(
                one.grad, two.grad, msg=lambda text, of=(plan, name): f"{of}: {text}"
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    ["pad", "additive", *[pytest.param(each, marks=THOROUGH) for each in ("bool", "bool square")]],
)
def test_compiled_it_does_the_same(form, fresh_compiler):
    model, batch = own(form)
    names = [name for name in layers_of(model, batch) if name.count(".") < 2][:2]
    eager = ManifoldMixup(model.eval(), names, example=batch, mask=name_of(batch), check=False)
    plans = [MixPlan(name, torch.tensor(0.3), PERM) for name in names]
    expected = [run(model, eager, plan, batch) for plan in plans]
    eager.remove()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, names, example=batch, mask=name_of(batch), check=False)
    for plan, output in zip(plans, expected, strict=True):
        torch.testing.assert_close(run(compiled, mixup, plan, batch), output)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_reader_that_runs_before_the_layer_too_gets_the_plain_mask_there(
    compiled, fresh_compiler
):
    """The mixed layer lies between two runs of one block, which reads the mask in both."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.middle = Block(), nn.Linear(WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, x, mask):
            return self.head(self.block(self.middle(self.block(x, mask)), mask)[:, 0])

    torch.manual_seed(0)
    model, lam = Twice().eval(), torch.tensor(0.3)
    x = torch.randn(BATCH, TIME, WIDTH)
    attached = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    example = {"x": x, "mask": VALID}
    mixup = ManifoldMixup(attached, ["middle"], example=example, mask="mask")
    output = run(attached, mixup, MixPlan("middle", lam, PERM), example)
    mixup.remove()
    state, partner = model.middle(model.block(x, VALID)), VALID[PERM]
    share = torch.where(partner, torch.where(VALID, lam, 0.0), 1.0)[..., None]
    mixed = share * state + (1 - share) * state[PERM]
    weights = (lam * VALID + (1 - lam) * partner).log()
    expected = model.head(model.block(mixed, weights)[:, 0])
    torch.testing.assert_close(output, expected)


@pytest.mark.slow
def test_compiled_training_without_an_example_looks_first(fresh_compiler):
    model, batch = own("bool")
    compiled = torch.compile(model, backend="eager")
    compiled(**batch)  # compiled without hooks
    mixup = ManifoldMixup(compiled, ["embed", "blocks.0"], mask="mask", seed=0)
    oracle = Weighted(own("bool")[0])
    for _ in range(4):
        output = compiled(**batch)
        torch.testing.assert_close(output, oracle(mixup.plan))
        mixup.wrap(nn.CrossEntropyLoss())(output, TARGET).backward()


# Hugging Face


def hugging_face(kind: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=30, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48,
        )  # fmt: skip
        return transformers.BertForSequenceClassification(config)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=30, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=16
        )
        return transformers.DistilBertForSequenceClassification(config)
    config = transformers.ModernBertConfig(
        vocab_size=30, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, global_attn_every_n_layers=2, local_attention=4, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    return transformers.ModernBertForSequenceClassification(config)


class MeanOf(nn.Module):
    """A Hugging Face encoder and a mean over valid positions, in a separate module."""

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


@pytest.mark.parametrize(
    ("kind", "pool", "implementation"),
    [
        ("bert", "mean", "eager"),
        ("distilbert", "first", "sdpa"),
        ("modernbert", "mean", "eager"),
        pytest.param("bert", "first", "sdpa", marks=THOROUGH),
        pytest.param("distilbert", "mean", "eager", marks=THOROUGH),
        pytest.param("modernbert", "first", "sdpa", marks=THOROUGH),
    ],
)
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
            model, ["bert.encoder.layer.0"], mask="attention_mask", example=batch, seed=0
        )
        torch.manual_seed(1)  # for the dropout
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


# Options and errors


def test_without_a_mask_the_refusal_says_how_to_mix_it():
    model, batch = own("bool")
    with pytest.raises(ValueError, match=r"'mask' is still read after it; mask='mask' mixes it"):
        ManifoldMixup(model, ["blocks.0"], example=batch)
    with pytest.raises(ValueError, match=r"With mask='mask' it is mixed too"):
        ManifoldMixup(model, example=batch)
    assert ManifoldMixup(model, example=batch, mask="mask").layers == ("embed", "blocks.0")


def test_a_batch_without_padding_or_without_a_mask_is_mixed_plainly():
    model = hugging_face("bert")
    mixup = ManifoldMixup(model, ["bert.encoder.layer.0"], mask="attention_mask", seed=0)
    plain = model(input_ids=IDS).logits
    mixup.wrap(nn.CrossEntropyLoss())(plain, TARGET % 2).backward()
    padded = {"input_ids": IDS, "attention_mask": VALID.long()}
    model(**padded)  # the first batch, which is checked
    model.eval()
    plan = MixPlan("bert.encoder.layer.0", torch.tensor(0.0), PERM)
    torch.testing.assert_close(
        run(model, mixup, plan, padded).logits, model(**padded).logits[PERM], rtol=0, atol=2e-6
    )


class InTheModel(Encoder):
    """Takes the mean in its own forward, where the mask cannot be replaced."""

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


def test_a_choice_says_why_the_mask_cannot_be_mixed():
    batch = {"ids": IDS, "mask": VALID}
    why = "'mask' is .*read after .* by code outside the modules.*nothing is padded and .* leave"
    for mask in (None, "mask"):
        with pytest.raises(ValueError, match=why):
            ManifoldMixup(built(InTheModel), example=batch, mask=mask)


class Unmasked(Encoder):
    """Reads a mask only if there is padding, as Transformers does."""

    def read(self, mask: Tensor) -> Tensor:
        whole = mask > -1e4 if mask.amin() < 0 else mask > 0
        return torch.ones(1, 1, 1, TIME, dtype=torch.bool) if whole.all() else mask

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, self.read(mask))
        return self.head(h[:, 0])


@pytest.mark.parametrize("form", ["bool", "additive", "additive 4-D"])
def test_a_first_batch_without_padding_does_not_hide_the_mask(form):
    model, mask = built(Unmasked), FORMS[form][:1].expand(BATCH, *FORMS[form].shape[1:])
    with pytest.raises(ValueError, match=r"'mask' is still read after it; mask='mask' mixes it"):
        ManifoldMixup(model, ["blocks.0"], example={"ids": IDS, "mask": mask})
    mixup = ManifoldMixup(model, ["blocks.0"], example={"ids": IDS, "mask": mask}, mask="mask")
    mixup.assert_verified(ids=IDS, mask=FORMS[form])


class Multiplied(nn.Module):
    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return h * mask[..., None]


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(h.dtype)[:, None]
        return (self.conv(h.mT * weights) * weights).mT


class WithoutPadding(nn.Module):
    """Keeps the states of padding at zero, in modules that receive the mask."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.pool, self.head = nn.Embedding(30, WIDTH), Mean(), nn.Linear(WIDTH, 3)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.keep = nn.ModuleList(kind() for _ in range(2))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids)
        for block, keep in zip(self.blocks, self.keep, strict=True):
            h = keep(block(h).tanh(), mask)
        return self.head(self.pool(h, mask))


@pytest.mark.parametrize("kind", [Multiplied, Convolved])
def test_booleans_that_only_states_are_multiplied_by_become_weights_as_integers_do(kind):
    model, found = built(functools.partial(WithoutPadding, kind)), {}
    require_exact(model, {"ids": IDS, "mask": VALID})
    for mask in (VALID, VALID.long()):
        mixup = ManifoldMixup(model, "keep.0", example=(IDS, mask), mask="mask", replace=True)
        output = run(model, mixup, MixPlan("keep.0", 0.3, PERM), {"ids": IDS, "mask": mask})
        mixup.target(None, output)
        gradient = torch.autograd.grad(output.square().sum(), model.embed.weight)[0]
        found[mask.dtype] = output, gradient
    torch.testing.assert_close(found[torch.bool], found[torch.long])


class Union(Attention):
    """Treats all nonzero positions as visible."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return super().forward(h, mask > -1e29 if mask.is_floating_point() else mask)


def test_a_module_that_reads_the_union_is_found_out():
    model, batch = own("bool")
    model.blocks[1].attention.__class__ = Union
    with pytest.raises(ValueError, match=r"blocks.0.*failed.*jump"):
        ManifoldMixup(model, ["blocks.0"], example=batch, mask="mask")


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
    """Padded floating input, which itself can be mixed."""

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
    """Skips its second block on request."""

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
