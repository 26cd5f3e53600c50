"""A text encoder in the lab: built from a folder, mixed with its mask, trained on tokens."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup, sample_plan
from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data, arguments
from manifold_mixup.lab.evaluate import logits
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import FOUND, Recipe
from manifold_mixup.lab.training.loop import train
from manifold_mixup.lab.training.method import Method, check

transformers = pytest.importorskip("transformers")

WORDS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny encoder, as Hugging Face saves it."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("encoder")
    transformers.BertModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def texts():
    """Texts of 2 to 8 words whose class is that of their words, and padding to ten."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    words = torch.randint(1, WORDS // 2, (120, 10), generator=generator) + y[:, None] * WORDS // 2
    lengths = torch.randint(2, 9, (120, 1), generator=generator)
    x = words * (torch.arange(10) < lengths)
    return Data("texts", x[:80], y[:80], x[80:], y[80:], classes=2, eps=0.0, space="")


@pytest.fixture(scope="module")
def recipe(folder):
    return Recipe(
        data="texts", model="text-encoder", weights=str(folder), epochs=3, batch=20, lr=5e-3
    )


PLACES = [("encoder.embeddings",), ("encoder.encoder.layer.0", "pool")]


@pytest.mark.parametrize("layers", [(), *PLACES])
def test_it_learns(recipe, texts, layers):
    result = train(replace(recipe, method="a way", layers=layers, alpha=0.4), texts)
    assert result.curve[-1].train_loss < result.curve[0].train_loss
    assert result.last.fgsm_accuracy == 100 - result.last.error  # no attack on tokens
    assert len(result.curve) == 3


@pytest.mark.parametrize("layers", PLACES)
def test_its_states_are_mixed_with_their_masks(recipe, texts, layers):
    run = replace(recipe, layers=layers)
    method = Method(fresh_model(run, texts), run, data=texts)
    method.mixup.assert_verified(*arguments(texts.x[:6]))


def test_regmixup_is_the_mean_of_the_clean_and_the_mixed_loss(recipe, texts):
    run = replace(recipe, method="RegMixup", layers=("encoder.embeddings",), alpha=5.0, clean=True)
    model = fresh_model(run, texts).train()
    x, y = texts.x[:6], texts.y[:6]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        loss = Method(model, run, data=texts).loss(model, x, y)
        torch.manual_seed(1)
        plan = sample_plan(6, layers=run.layers, alpha=5.0, generator=torch.default_generator)
    plain = fresh_model(run, texts).train()
    clean = cross_entropy(plain(*arguments(x)), y)
    with ManifoldMixup(plain, list(run.layers), mask="mask") as mixup, mixup.using(plan):
        mixed = mixup.wrap(cross_entropy)(plain(*arguments(x)), y)
    assert not torch.isclose(clean, mixed, atol=1e-3)
    torch.testing.assert_close(loss, (clean + mixed) / 2)


def test_padding_and_the_size_of_a_chunk_change_nothing(recipe, texts):
    model = fresh_model(recipe, texts).eval()
    longer = torch.cat([texts.x, torch.zeros(80, 2, dtype=torch.int64)], 1)
    alone = torch.cat([logits(model, row[None]) for row in texts.x[:5]])
    torch.testing.assert_close(logits(model, longer)[:5], alone)


def test_the_layers_of_find_layers_take_the_mask_too(recipe, texts):
    found = models.eligible("text-encoder", fresh_model(recipe, texts), texts.x)
    run = replace(recipe, layers=found)
    Method(fresh_model(run, texts), run, data=texts).mixup.assert_verified(*arguments(texts.x[:6]))
    assert FOUND[0] not in found


def test_no_pooler_that_nothing_reads(recipe, texts):
    names = [name for name, _ in fresh_model(recipe, texts).named_parameters()]
    assert not any("pooler" in name for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "text-encoder has no weights of its own"),
        ({"model": "mlp"}, "mlp does not take texts, which has ids of tokens"),
        ({"layers": ("input",)}, "input is mixed, but the inputs of texts are ids of tokens"),
        ({"layers": ("pool",), "blend": "cut"}, "blend is 'cut', but"),
        ({"pgd_steps": 2, "pgd_eps": 1.0}, "pgd_steps is set, but"),
    ],
)
def test_refusals(recipe, texts, change, message):
    with pytest.raises(ValueError, match=message):
        check(replace(recipe, **change), texts)


def test_other_data(recipe, task):
    with pytest.raises(ValueError, match="text-encoder takes texts, but the inputs of blobs"):
        fresh_model(recipe, task)


def test_tokens_of_another_tokenizer(recipe, texts):
    with pytest.raises(ValueError, match=r"has the token 20, but the encoder in .* knows 20"):
        fresh_model(recipe, replace(texts, x=texts.x + (texts.x == 19)))


def test_a_folder_without_an_encoder(recipe, texts, tmp_path):
    with pytest.raises(ValueError, match="is not the folder of an encoder"):
        fresh_model(replace(recipe, weights=str(tmp_path)), texts)
