"""Causal language models in the Trainer: next tokens with -100, padded, packed, and with LoRA."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import DataCollatorForLanguageModeling, DataCollatorWithFlattening

from language_training import (
    BLOCKS,
    MODELS,
    batch_of,
    documents,
    gpt2,
    graded,
    keep_apart,
    llama,
    pack,
    pad,
)
from manifold_mixup import ManifoldMixup, MixPlan
from manifold_mixup.integrations.transformers import add_to_trainer
from trainer_training import BATCH, COUNT, Watch, bert, build, make_trainer

PERM = torch.tensor([3, 5, 1, 0, 2, 4, 7, 6])
MASK = {"mask": "attention_mask", "outputs": "logits"}
THOROUGH = pytest.mark.thorough


def plan(layer, lam, perm=PERM):
    return MixPlan(layer, torch.tensor(lam), perm)


def both(kind, tmp_path, *, make=None, mixup=None, **settings):
    """Return a Trainer that mixes, its attachment, and a plain Trainer of an equal model."""
    make = make or MODELS[kind]
    ours, plain = (make_trainer(make(), [], tmp_path, **settings) for _ in range(2))
    attached = ManifoldMixup(ours.model, BLOCKS[kind], **(MASK | (mixup or {})))
    add_to_trainer(ours, attached)
    return ours, attached, plain


# Encoder-decoders, whose decoder inputs are made of the labels


def t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(vocab_size=30, decoder_start_token_id=0, **sizes)
    return build(transformers.T5ForConditionalGeneration, config)


def bart():
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 30}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(**sizes, **heads, max_position_embeddings=16)
    return build(transformers.BartForConditionalGeneration, config)


@pytest.mark.parametrize(
    ("make", "layer"), [(t5, "encoder.block.0"), (bart, "model.encoder.layers.0")]
)
def test_decoder_inputs_are_made_of_the_labels_as_the_model_does(make, layer, tmp_path):
    def summed(outputs, labels, num_items_in_batch=None):
        return functional.cross_entropy(outputs["logits"].mT, labels)

    model, plain = make(), make().eval()
    trainer = make_trainer(model, [], tmp_path, given={"compute_loss_func": summed})
    mixup = ManifoldMixup(model, [layer], outputs="logits", seed=0)
    add_to_trainer(trainer, mixup)
    generator = torch.Generator().manual_seed(0)
    ids, labels = (torch.randint(3, 30, (8, n), generator=generator) for n in (7, 5))
    switch_off_dropout(model)
    for lam, rows in ((1.0, torch.arange(8)), (0.0, PERM)):
        with mixup.using(plan(layer, lam)):
            loss = trainer.compute_loss(model.train(), {"input_ids": ids, "labels": labels})
        expected = plain(input_ids=ids[rows], labels=labels[rows]).loss
        torch.testing.assert_close(loss, expected)


def switch_off_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0


# The loss of a batch, compared with that of a plain Trainer


@pytest.mark.parametrize(
    ("kind", "smoothing"),
    [
        ("llama", 0.1),
        ("gpt2", 0.0),
        pytest.param("llama", 0.0, marks=THOROUGH),
        pytest.param("gpt2", 0.1, marks=THOROUGH),
    ],
)
def test_at_lam_1_it_is_the_loss_of_a_plain_trainer(kind, smoothing, tmp_path):
    ours, mixup, plain = both(kind, tmp_path, label_smoothing_factor=smoothing)
    batch, items = batch_of(), torch.tensor(37)  # of several accumulated batches
    expected, gradients = graded(plain, batch, items)
    for layer in BLOCKS[kind]:
        with mixup.using(plan(layer, 1.0)):
            loss, found = graded(ours, batch, items)
        torch.testing.assert_close(loss, expected)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize(
    ("kind", "per_sample"),
    [
        ("llama", False),
        ("gpt2", True),
        pytest.param("llama", True, marks=THOROUGH),
        pytest.param("gpt2", False, marks=THOROUGH),
    ],
)
def test_between_it_weighs_the_losses_of_both_ends(kind, per_sample, tmp_path):
    ours, mixup, plain = both(kind, tmp_path, mixup={"per_sample": per_sample, "check": False})
    batch, items = batch_of(), torch.tensor(37)
    lam = torch.linspace(0.1, 0.9, BATCH) if per_sample else torch.tensor(0.3)
    with mixup.using(MixPlan(BLOCKS[kind][0], lam, PERM)):
        loss, _ = graded(ours, batch, items)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = ours.model(**inputs).logits
    mixup.target(None, logits)
    scores = logits[:, :-1].transpose(1, 2)
    each = [
        functional.cross_entropy(scores, labels[:, 1:], reduction="none").sum(1)
        for labels in (batch["labels"], batch["labels"][PERM])
    ]
    expected = (lam * each[0] + (1 - lam) * each[1]).sum() / items
    torch.testing.assert_close(loss, expected.detach())
    # The same as by the function with which the model itself computes its loss
    given = {"logits": logits, "vocab_size": 30, "num_items_in_batch": items}
    ends = [
        plain.model.loss_function(labels=labels, **given)
        for labels in (batch["labels"], batch["labels"][PERM])
    ]
    if not per_sample:
        torch.testing.assert_close(loss, (lam * ends[0] + (1 - lam) * ends[1]).detach())


def test_classes_of_tokens_are_not_shifted(tmp_path):
    def make():
        return gpt2(transformers.GPT2ForTokenClassification, num_labels=30, classifier_dropout=0)

    ours, mixup, plain = both("gpt2", tmp_path, make=make, mixup={"check": False})
    batch = batch_of()
    items = (batch["labels"] != -100).sum()  # this model's own loss is the mean of its batch
    expected, _ = graded(plain, batch, items)
    with mixup.using(plan(BLOCKS["gpt2"][0], 1.0)):
        torch.testing.assert_close(graded(ours, batch, items)[0], expected)


def test_logits_in_half_precision(tmp_path):
    ours, mixup, plain = both("llama", tmp_path, make=lambda: llama().bfloat16())
    with mixup.paused():
        loss, _ = graded(ours, batch_of(), 37)
    torch.testing.assert_close(loss, graded(plain, batch_of(), 37)[0], rtol=1e-6, atol=0)


# Whole trainings


def tokens(case):
    texts = documents()
    if case == "packed":
        return pack(texts), transformers.default_data_collator
    rows = [{"input_ids": ids} for ids in texts]
    return rows, lambda rows: pad([row["input_ids"] for row in rows])


def trained(case, kind, folder, *, mix=True, mixup=None, **settings):
    rows, collate = tokens(case)
    model = MODELS[kind]()
    options = MASK if case == "padded" else {}
    mixup = ManifoldMixup(model, BLOCKS[kind], seed=0, **options, **(mixup or {}))
    watch = Watch(mixup)

    def recorded(rows):
        watch.batches.append(collate(rows))
        return dict(watch.batches[-1])

    given = {"data_collator": recorded, "callbacks": [watch]}
    trainer = make_trainer(model, rows, folder, given=given, **settings)
    if mix:
        add_to_trainer(trainer, mixup)
    else:
        mixup.remove()
    trainer.train()
    return trainer, watch


def assert_same(model, other):
    theirs = other.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("case", ["padded", "packed"])
def test_it_trains_what_a_loop_by_hand_does(case, tmp_path):
    trainer, watch = trained(case, "llama", tmp_path, epochs=2, gradient_accumulation_steps=3)
    assert {each.layer for each in watch.plans} == set(BLOCKS["llama"])
    assert trainer.state.global_step == 2 * 2
    model = llama().train()
    options = {**MASK, "check": False}
    again = ManifoldMixup(model, BLOCKS["llama"], **options) if case == "padded" else None
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    seen = list(zip(watch.batches, watch.plans, strict=True))
    epoch = len(seen) // 2
    for step in (seen[:3], seen[3:epoch], seen[epoch : epoch + 3], seen[epoch + 3 :]):
        items = sum((batch["labels"][:, 1:] != -100).sum() for batch, _ in step)
        losses.append(0.0)
        for batch, each in step:
            logits = mixed_logits(model, batch, each, again)
            ends = [
                functional.cross_entropy(
                    logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="sum"
                )
                for labels in (batch["labels"], batch["labels"][each.perm])
            ]
            loss = (each.lam * ends[0] + (1 - each.lam) * ends[1]) / items
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(trainer.model, model)
    found = trainer.state.log_history[-1]["train_loss"]
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def mixed_logits(model, batch, each, mixup):
    """Return the logits of a mixed pass: without padding, the states are mixed by hand."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if mixup is not None:
        with mixup.using(each):
            logits = model(**inputs, use_cache=False).logits
        mixup.target(None, logits)
        return logits
    layer = model.get_submodule(each.layer)
    hook = layer.register_forward_hook(
        lambda module, args, h: each.lam * h + (1 - each.lam) * h[each.perm]
    )
    with hook:
        return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize(
    ("kind", "case", "smoothing"),
    [
        ("llama", "padded", 0.0),
        ("llama", "packed", 0.1),
        pytest.param("gpt2", "padded", 0.1, marks=THOROUGH),
        pytest.param("gpt2", "packed", 0.0, marks=THOROUGH),
    ],
)
def test_without_mixing_it_trains_and_evaluates_as_a_plain_trainer(kind, case, smoothing, tmp_path):
    settings = {"label_smoothing_factor": smoothing, "gradient_accumulation_steps": 2}
    ours, watch = trained(case, kind, tmp_path, mixup={"p": 0.0}, **settings)
    plain, _ = trained(case, kind, tmp_path, mix=False, **settings)
    assert len(watch.batches) > 2
    assert_same(ours.model, plain.model)
    losses = [t.evaluate(tokens(case)[0][:20])["eval_loss"] for t in (ours, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_log_holds_no_accuracy_and_no_logits(tmp_path):
    trainer, watch = trained("packed", "gpt2", tmp_path, logging_steps=2)
    row = next(row for row in trainer.state.log_history if "mixup_lam" in row)
    assert row["mixup_lam"] == watch.plans[1].lam.item()
    assert "mixup_accuracy" not in row


# Padding


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        ("llama", "right"),
        ("gpt2", "left"),
        pytest.param("llama", "left", marks=THOROUGH),
        pytest.param("gpt2", "right", marks=THOROUGH),
    ],
)
def test_with_padding_every_block_gives_both_ends(kind, side):
    model, batch = MODELS[kind]().train(), batch_of(side)
    del batch["labels"]
    mixup = ManifoldMixup(model, BLOCKS[kind], check=False, **MASK)
    mixup.assert_verified(**batch)
    valid = batch["attention_mask"].bool()
    with mixup.paused():
        plain = model(**batch).logits
    for layer in BLOCKS[kind]:
        for lam, rows in ((0.0, PERM), (1.0, torch.arange(BATCH))):
            with mixup.using(plan(layer, lam)), torch.no_grad():
                logits = model(**batch).logits
            torch.testing.assert_close(logits[valid[rows]], plain[rows][valid[rows]])


@pytest.mark.parametrize("kind", ["gpt2", pytest.param("llama", marks=THOROUGH)])
def test_a_first_token_that_padding_predicts_is_refused(kind, tmp_path):
    ours, mixup, plain = both(kind, tmp_path)
    batch = batch_of("left")
    with mixup.paused():
        expected, _ = graded(plain, batch, 37)
        torch.testing.assert_close(graded(ours, batch, 37)[0], expected)
    with pytest.raises(ValueError, match=r"padding on the left.*padding_side = 'right'.*-100"):
        graded(ours, batch, 37)
    first = batch["attention_mask"].cumsum(1) == 1
    batch["labels"] = batch["labels"].masked_fill(first, -100)
    expected, _ = graded(plain, batch, 37)
    with mixup.using(plan(BLOCKS[kind][0], 1.0)):
        torch.testing.assert_close(graded(ours, batch, 37)[0], expected)


# Several documents in a row

STARTS = torch.tensor([3, 4, 5, 2, 6, 3, 7, 4])


def packed_rows():
    return torch.stack([row["input_ids"] for row in pack(documents())[:BATCH]])


def test_positions_that_restart_are_refused_with_a_way_out(tmp_path):
    positions, _ = keep_apart(STARTS)
    ids = packed_rows()
    batch = {"input_ids": ids, "position_ids": positions, "labels": ids}
    for kind in MODELS:
        ours, mixup, _ = both(kind, tmp_path)
        says = r"'position_ids' is still read after it.*leave it out.*additive mask of shape"
        with pytest.raises(ValueError, match=says):
            graded(ours, batch, 37)
        mixup.remove()


@pytest.mark.parametrize("kind", MODELS)
def test_an_additive_mask_keeps_documents_apart(kind, tmp_path):
    positions, mask = keep_apart(STARTS)
    ids = packed_rows()
    labels = ids.scatter(1, STARTS[:, None], -100)
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    if kind == "gpt2":  # its positions are absolute, and embedded before the first block
        batch["position_ids"] = positions
    ours, mixup, plain = both(kind, tmp_path)
    with torch.no_grad():
        restarted = plain.model(input_ids=ids, position_ids=positions).logits
        torch.testing.assert_close(ours.model.eval()(**batch).logits, restarted)
    expected, gradients = graded(plain, batch, 37)
    for layer in BLOCKS[kind]:
        with mixup.using(plan(layer, 1.0)):
            loss, found = graded(ours, batch, 37)
        torch.testing.assert_close(loss, expected)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient)
    mixup.assert_verified(**{name: batch[name] for name in batch if name != "labels"})


def test_positions_that_are_embedded_are_mixed():
    """Mixing the embeddings of words also mixes those of positions, which are added to them."""
    positions, _ = keep_apart(STARTS)
    batch = {"input_ids": packed_rows(), "position_ids": positions}
    batch["attention_mask"] = torch.ones_like(positions)
    model = gpt2().train()
    mixup = ManifoldMixup(model, ["transformer.wte", "transformer.drop"], example=batch, **MASK)
    logits = []
    for layer in mixup.layers:
        with mixup.using(plan(layer, 0.3)), torch.no_grad():
            logits.append(model(**batch).logits)
    torch.testing.assert_close(*logits)


FLASH = {"return_flash_attn_kwargs": True}
ROW = "single row that holds several sequences.*nothing to mix it with.*Pad the sequences"


def test_a_collator_that_flattens_the_batch(tmp_path):
    model = llama()
    mixup = ManifoldMixup(model, BLOCKS["llama"])
    given = {"data_collator": DataCollatorWithFlattening()}
    trainer = make_trainer(
        model, [{"input_ids": ids} for ids in documents()], tmp_path, given=given
    )
    with pytest.raises(ValueError, match=ROW):
        add_to_trainer(trainer, mixup)


@pytest.mark.parametrize(
    ("check", "options"),
    [
        (True, {}),
        (False, FLASH),
        pytest.param(True, FLASH, marks=THOROUGH),
        pytest.param(False, {}, marks=THOROUGH),
    ],
)
def test_a_batch_that_is_flattened_otherwise(check, options, tmp_path):
    flatten = DataCollatorWithFlattening(return_position_ids=not options, **options)
    model = llama()
    mixup = ManifoldMixup(model, BLOCKS["llama"], check=check)
    given = {"data_collator": lambda rows: flatten(rows)}
    rows = [{"input_ids": ids} for ids in documents()]
    trainer = make_trainer(model, rows, tmp_path, given=given)
    add_to_trainer(trainer, mixup)
    trainer.evaluate(rows[:8])
    with pytest.raises(ValueError, match=ROW):
        trainer.train()


def test_the_collator_of_language_models(tmp_path):
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, models

    words = {f"w{number}": number for number in range(30)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), pad_token="w0"
    )
    model = llama()
    mixup = ManifoldMixup(model, BLOCKS["llama"], seed=0, **MASK)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    rows = [{"input_ids": ids.tolist()} for ids in documents()]
    given = {"data_collator": collate}
    trainer = make_trainer(model, rows, tmp_path, given=given)
    add_to_trainer(trainer, mixup)
    trainer.train()
    assert mixup.state_dict()["step"] == -(-COUNT // BATCH)
    batch, expected = collate(rows[:BATCH]), pad(documents(BATCH))
    assert all(torch.equal(batch[name], tensor) for name, tensor in expected.items())


# Models and batches with another loss


def test_models_that_compute_another_loss(tmp_path):
    sizes = {"vocab_size": 30, "d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2}
    other = {"encoder_layers": 1, "encoder_attention_heads": 2, "decoder_ffn_dim": 16}
    config = transformers.BartConfig(**sizes, **other)
    models = [
        build(transformers.BartForCausalLM, config),  # does not shift
        build(transformers.BartForConditionalGeneration, config),
        bert(transformers.BertForMaskedLM),
    ]
    for model in models:
        mixup = ManifoldMixup(model, model.get_input_embeddings(), check=False)
        with pytest.raises(TypeError, match=rf"causal language .* but not {type(model).__name__}"):
            add_to_trainer(make_trainer(model, [], tmp_path), mixup)


def test_a_loss_function_of_ones_own(tmp_path):
    model = llama()
    model.loss_function = lambda logits, labels, **_: logits.sum()
    mixup = ManifoldMixup(model, BLOCKS["llama"])
    with pytest.raises(TypeError, match="Give the Trainer a compute_loss_func"):
        add_to_trainer(make_trainer(model, [], tmp_path), mixup)


def test_further_terms_of_the_loss(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": 30}
    config = transformers.MixtralConfig(
        **sizes, num_local_experts=2, output_router_logits=True, pad_token_id=0
    )
    experts = build(transformers.MixtralForCausalLM, config)
    dense = llama()
    dense.config.z_loss_coefficient = 0.1
    for model, name, off in (
        (experts, "aux_loss", "output_router_logits=False"),
        (dense, "z_loss", "z_loss_coefficient=0"),
    ):
        trainer = make_trainer(model, [], tmp_path)
        add_to_trainer(trainer, ManifoldMixup(model, ["model.layers.0"], check=False, **MASK))
        with pytest.raises(ValueError, match=rf"adds '{name}' to its loss.*{off}"):
            graded(trainer, batch_of(), 37)


def test_labels_that_are_shifted_already(tmp_path):
    ours, _, _ = both("llama", tmp_path, mixup={"check": False})
    batch = batch_of()
    batch["shift_labels"] = batch["labels"].roll(-1, 1)
    with pytest.raises(ValueError, match=r"holds shift_labels.*Remove them"):
        graded(ours, batch, 37)


def test_labels_of_another_length(tmp_path):
    ours, _, _ = both("llama", tmp_path, mixup={"check": False})
    batch = batch_of()
    batch["labels"] = batch["labels"][:, 1:]
    with pytest.raises(ValueError, match=r"labels of shape \(8, 8\).*one token id per position"):
        graded(ours, batch, 37)


# LoRA

BY_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def with_lora():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    torch.manual_seed(1)
    return peft.get_peft_model(llama(), config)


@BY_PEFT
def test_lora_trains_below_and_above_the_mix(tmp_path):
    model = with_lora()
    layer = "base_model.model.model.layers.0"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mixup = ManifoldMixup(model, [layer], seed=0, check=False, **MASK)
    watch = Watch(mixup)
    rows, collate = tokens("padded")
    given = {"data_collator": collate, "callbacks": [watch]}
    trainer = make_trainer(model, rows, tmp_path, given=given)
    add_to_trainer(trainer, mixup)
    trainer.train()
    changed = {
        name for name, tensor in model.state_dict().items() if (tensor != before[name]).any()
    }
    assert changed == {name for name in before if "lora" in name}
    assert {name.split(".")[4] for name in changed} == {"0", "1"}
    mixup.assert_verified(**{name: batch_of()[name] for name in ("input_ids", "attention_mask")})


@BY_PEFT
def test_the_loss_and_gradients_with_lora(tmp_path):
    plain = make_trainer(with_lora(), [], tmp_path)
    ours = make_trainer(with_lora(), [], tmp_path)
    layer = "base_model.model.model.layers.0"
    mixup = ManifoldMixup(ours.model, [layer])
    add_to_trainer(ours, mixup)
    ids = packed_rows()
    batch, items = {"input_ids": ids, "labels": ids}, torch.tensor(37)
    module = plain.model.get_submodule(layer)
    with module.register_forward_hook(lambda module, args, h: 0.3 * h + 0.7 * h[PERM]):
        ends = [graded(plain, batch | {"labels": y}, items) for y in (ids, ids[PERM])]
    with mixup.using(plan(layer, 0.3)):
        loss, found = graded(ours, batch, items)
    torch.testing.assert_close(loss, 0.3 * ends[0][0] + 0.7 * ends[1][0])
    assert found.keys() == ends[0][1].keys()
    assert all("lora" in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, 0.3 * ends[0][1][name] + 0.7 * ends[1][1][name])
        assert gradient.any(), name
