"""``manifold-mixup layers`` for models of all sources, as a table, as JSON, and in part."""

import functools
import json
import sys
from textwrap import dedent

import pytest

import lab_runs
from manifold_mixup import ManifoldMixup
from manifold_mixup.lab import cli
from manifold_mixup.lab.models import user_code

MINE = """
    from torch import nn, ones, tensor
    from beside import CLASSES

    def net():
        print("building")
        return nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 5)

        def forward(self, x):
            return x + self.fc(x)

    def residual():
        return nn.Sequential(Block(), Block(), nn.Linear(5, CLASSES)), ones(3, 5)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(4)))
            self.head = nn.Linear(4, CLASSES)

        def forward(self, ids, mask=None, labels=None):
            h = self.layers(self.embed(ids))
            logits = self.head(h.mean(1) if mask is None else (mask[..., None] * h).sum(1))
            if labels is None:
                return logits
            return logits, nn.functional.cross_entropy(logits, labels)

    ids = tensor([[1, 2, 3], [4, 5, 6]])

    def keywords():
        return Reader(), {"ids": ids}

    def positional():
        return Reader(), (ids, ids % 2)

    def labelled():
        return Reader(), {"ids": ids, "labels": tensor([0, 1])}

    def bert():
        from transformers import BatchEncoding, BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=9, hidden_size=8, num_hidden_layers=4, num_attention_heads=2,
            intermediate_size=16,
        )
        return BertForSequenceClassification(config), BatchEncoding({"input_ids": ids})

    def padded():
        model, batch = bert()
        return model, batch | {"attention_mask": tensor([[1, 1, 1], [1, 1, 0]])}

    def long():
        return nn.Sequential(*(Block() for _ in range(21))), ones(2, 5)

    ready = nn.Linear(5, CLASSES)
    number = 3

    def pair():
        return 3, ready

    def sized(width):
        return nn.Linear(width, width)

    def broken():
        return nn.Linear("wide", 3)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in {name for name in sys.modules if name.split(" ")[0] in ("mine", "beside")} - before:
        del sys.modules[name]


@pytest.fixture
def mine(tmp_path):
    """A folder with a user's file that imports another file beside it."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "mine.py").write_text(dedent(MINE))
    (folder / "beside.py").write_text("CLASSES = 2\n")
    return folder


run = functools.partial(lab_runs.run, "layers")


def found(capsys, *arguments):
    """Return the JSON output."""
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def names(rows):
    return [row["name"] for row in rows]


# Sources of models


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (("preact-resnet18",), "input, layer1, layer2"),
        (("mlp",), "input, hidden1, hidden2"),
        (("torchvision:resnet18", "--shape", 3, 64, 64), "input, layer1, layer2"),
        (("timm:resnet18", "--shape", 3, 64, 64), "input, layer1, layer2"),
    ],
)
def test_a_model_by_name(capsys, arguments, chosen):
    assert run(*arguments) == 0
    assert f"layers=None mixes at: {chosen}" in capsys.readouterr().out


def test_a_model_of_timm_gets_inputs_of_the_size_it_is_made_for(capsys):
    shown = found(capsys, "timm:test_vit")
    assert shown["inputs"][0]["shape"] == [2, 3, 160, 160]
    assert shown["default"] == ["input", "blocks.0", "blocks.2"]


def test_a_function_in_a_file(mine, capsys):
    """It can import files beside it from any current folder."""
    assert run(mine / "mine.py:net", "--shape", 5) == 0
    assert "layers=None mixes at: input, 0" in capsys.readouterr().out


def test_a_function_in_a_package_of_the_current_folder(mine, monkeypatch, capsys):
    monkeypatch.chdir(mine)
    assert run("mine:net", "--shape", 5) == 0
    assert "layers=None mixes at: input, 0" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "kind"), [("ready", "Linear"), ("Block", "Block")])
def test_a_model_or_a_class(mine, capsys, name, kind):
    assert found(capsys, mine / f"mine.py:{name}", "--shape", 5)["class"] == kind


def test_a_file_named_like_a_module_that_is_loaded(mine, capsys):
    """It is not confused with that module, and does not replace it."""
    (mine / "mine.py").rename(mine / "json.py")
    assert run(mine / "json.py:net", "--shape", 5) == 0
    assert sys.modules["json"] is json


# Inputs


def test_one_tensor(mine, capsys):
    inputs = found(capsys, mine / "mine.py:residual")["inputs"]
    assert [(row["name"], row["shape"]) for row in inputs] == [("input", [3, 5])]


def test_keyword_arguments(mine, capsys):
    shown = found(capsys, mine / "mine.py:keywords")
    assert shown["default"] == ["layers.0", "layers.1"]
    assert names(shown["inputs"]) == ["ids"]


def test_positional_arguments(mine, capsys):
    """If the last layer reads a mask, no layer can be mixed; the output explains this."""
    shown = found(capsys, mine / "mine.py:positional")
    assert names(shown["inputs"]) == ["ids", "mask"]
    assert shown["default"] == []
    assert "the side input 'mask' is read after them" in shown["reason"]
    rows = {row["name"]: row for row in shown["layers"]}
    assert rows["layers.0"]["side"] == ["mask"]
    assert run(mine / "mine.py:positional") == 0
    assert "layers=None mixes at: none, because no hidden layer" in capsys.readouterr().out


def test_a_mask_that_is_mixed_too(mine, capsys):
    """It follows the reasons, and ManifoldMixup with the same mask chooses the same layers."""
    pytest.importorskip("transformers")
    place = f"{mine / 'mine.py'}:padded"
    rows = {row["name"]: row for row in found(capsys, place)["layers"]}
    assert "; mask='attention_mask' mixes it too" in rows["bert.encoder.layer.0"]["reason"]
    assert rows["bert.encoder.layer.0"]["mask"] == "attention_mask"
    model, example = user_code.load(place)
    mixup = ManifoldMixup(model, example=dict(example), mask="attention_mask")
    shown = found(capsys, place, "--mask", "attention_mask")
    assert tuple(shown["default"]) == mixup.layers
    assert len(shown["default"]) == 2


def test_labels_among_the_inputs(mine, capsys):
    assert run(mine / "mine.py:labelled") == 0
    assert "Omit 'labels', and wrap the criterion" in capsys.readouterr().out


def test_a_model_of_transformers_and_what_its_tokenizers_return(mine, capsys):
    pytest.importorskip("transformers")
    shown = found(capsys, mine / "mine.py:bert")
    assert shown["class"] == "BertForSequenceClassification"
    assert shown["default"] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]


# Output


def test_the_table(mine, capsys):
    assert run(mine / "mine.py:residual") == 0
    shown = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in shown]
    residual = (
        "the residual path around it carries the unmixed state: the code of '{0}' after '{0}.fc' "
        "reads '{1}' of shape (3, 5); it would be mixed too if a module received it as an argument"
    )
    assert rows == [
        ["layer", "depth", "shape", "why not, or what is mixed too"],
        ["*", "input:input", "(3, 5)"],
        ["0.fc", "0.417", "(3, 5)", residual.format("0", "input")],
        ["*", "0", "0.417", "(3, 5)"],
        ["1.fc", "0.833", "(3, 5)", residual.format("1", "0")],
        ["+", "1", "0.833", "(3, 5)"],
        ["+", "2", "1.000", "(3, 2)"],
        [],
        *rows[-3:],
    ]
    assert rows[-2:] == [
        ["3 of 5 layers of Sequential can be mixed."],
        ["layers=None mixes at: input, 0"],
    ]


def test_the_json(mine, capsys):
    shown = found(capsys, mine / "mine.py:residual")
    assert shown | {"layers": 0, "inputs": 0} == {
        "model": str(mine / "mine.py:residual"),
        "class": "Sequential",
        "default": ["input", "0"],
        "reason": "",
        "measure": "FLOPs",
        "layers": 0,
        "inputs": 0,
    }
    assert shown["inputs"] == [
        {"name": "input", "shape": [3, 5], "kind": "data", "cut": True, "chosen": True, "side": [],
         "mask": "", "reason": "", "carries": []}
    ]  # fmt: skip
    first, block = shown["layers"][:2]
    assert (first["name"], first["cut"], first["chosen"]) == ("0.fc", False, False)
    assert first["reason"].startswith("the residual path")
    assert block == {"name": "0", "shape": [3, 5], "depth": pytest.approx(5 / 12),
                     "parameters": pytest.approx(30 / 72), "order": pytest.approx(1 / 3, abs=0.1),
                     "run": None, "runs": 1,
                     "cut": True, "chosen": True, "side": [], "mask": "", "reason": "",
                     "carries": []}  # fmt: skip


def test_what_the_model_prints_is_not_in_the_json(mine, capsys):
    assert run(mine / "mine.py:net", "--shape", 5, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["class"] == "Sequential"
    assert "building" in printed.err


def test_only_what_can_be_mixed(mine, capsys):
    shown = found(capsys, mine / "mine.py:residual", "--cuts")
    assert names(shown["layers"]) == ["0", "1", "2"]
    assert found(capsys, mine / "mine.py:keywords", "--cuts")["inputs"] == []


@pytest.mark.parametrize("pattern", ["layers.*", "*", "layers.[23].0", "head"])
def test_a_pattern_shows_what_the_library_would_take_for_it(mine, capsys, pattern):
    shown = found(capsys, mine / "mine.py:keywords", "--match", pattern)
    model, _ = user_code.load(f"{mine / 'mine.py'}:keywords")
    taken = ManifoldMixup(model, [pattern], check=False).layers
    assert sorted(names(shown["layers"])) == sorted(taken)
    assert shown["default"] == ["layers.0", "layers.1"]  # independent of the filter


def test_several_patterns_and_the_input(mine, capsys):
    shown = found(capsys, mine / "mine.py:residual", "--match", "input", "*.fc")
    assert (names(shown["inputs"]), names(shown["layers"])) == (["input"], ["0.fc", "1.fc"])
    assert run(mine / "mine.py:residual", "--match", "*.fc") == 0
    assert (
        "3 of 5 layers of Sequential can be mixed; 2 of the 5 are shown." in capsys.readouterr().out
    )


def test_a_long_table_says_how_to_shorten_it(mine, capsys):
    assert run(mine / "mine.py:long") == 0
    assert "; --cuts shows only these." in capsys.readouterr().out
    assert run(mine / "mine.py:long", "--cuts") == 0
    assert "--cuts" not in capsys.readouterr().out


# Bad input

BAD = {
    ("preact-resnet81",): "Did you mean 'preact-resnet18'?",
    ("timm:resnet1818",): "Did you mean 'timm:resnet18'",
    ("timm:nothing",): "timm has no model 'nothing'. It has ",
    ("mine.py",): "mine.py is only a file. Name the object in it too: mine.py:NAME",
    ("mime.py:net",): "there is no file mime.py; paths are relative to /",
    ("mime:net",): "ModuleNotFoundError: No module named 'mime'",
    ("mine.py:nett",): "mine.py has no 'nett'. Did you mean 'net'?",
    ("mine.py:sized",): "mine.py:sized needs width, but is called without arguments.",
    ("mine.py:number",): "mine.py:number returned int. Expected an nn.Module, or",
    ("mine.py:pair",): "mine.py:pair returned (int, Linear). Expected an nn.Module,",
    ("mine.py:net", "--shape", 7): "does not run on inputs of shape (7,): Sequential cannot be",
    ("mine.py:net", "--shape", 6): "(2x6 and 5x8)). Give another --shape, or let mine.py:net",
    ("mine.py:residual", "--shape", 5): "returns its own batch. Leave out --shape.",
    (
        "mine.py:residual",
        "--match",
        "fc",
    ): "matches none of the 5 layers of Sequential, such as '0.fc'",
}


@pytest.mark.parametrize("arguments", BAD, ids=str)
def test_bad_input(mine, monkeypatch, capsys, arguments):
    monkeypatch.chdir(mine)
    assert run(*arguments) == cli.BAD_INPUT
    assert BAD[arguments] in capsys.readouterr().err


def test_a_file_that_fails_or_ends_the_process(mine, monkeypatch, capsys):
    """The message names the line in the user's file, however deep the error was raised."""
    monkeypatch.chdir(mine)
    assert run("mine.py:broken") == cli.BAD_INPUT
    line = 1 + (mine / "mine.py").read_text().splitlines().index('    return nn.Linear("wide", 3)')
    assert f"(mine.py, line {line})" in capsys.readouterr().err
    for text, reason in (
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (mine.py, line 2)"),
        (
            "import missing_thing\n",
            "ModuleNotFoundError: No module named 'missing_thing' (mine.py, line 1)",
        ),
        ("def net(:\n", "SyntaxError: invalid syntax (mine.py, line 1)"),
    ):
        (mine / "mine.py").write_text(text)
        assert run("mine.py:net") == cli.BAD_INPUT
        assert f"mine.py:net cannot be loaded: {reason}" in capsys.readouterr().err
    (mine / "mine.py").write_text("from torch import nn\ndef net():\n return nn.Linear(2, 2), 3\n")
    assert run("mine.py:net") == cli.BAD_INPUT
    assert "without a tensor that has a batch dimension" in capsys.readouterr().err
    (mine / "mine.py").write_text(
        "from torch import nn, ones\ndef net():\n return nn.Linear(2, 2), {'x': ones(2, 2)}\n"
    )
    assert run("mine.py:net") == cli.BAD_INPUT
    told = capsys.readouterr().err
    assert "mine.py:net does not run on the batch that mine.py:net returns: Linear cannot" in told
    assert "A tuple is the positional arguments of forward, a dict its keyword arguments." in told
