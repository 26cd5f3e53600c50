"""Every example runs on less data: it mixes at its layers, trains, and prints its table."""

import importlib
import math
import re
import runpy
import struct
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import timm
import torch
from sklearn.utils import Bunch
from torch import nn
from torch.utils.data import TensorDataset

import manifold_mixup
from manifold_mixup import ManifoldMixup, MixPlan, find_layers

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "examples.md").read_text()
REAL = ROOT / "shared" / "data" / "tabular"
SCRIPTS = [
    "audio",
    "fine_tuning",
    "gan",
    "graphs",
    "multilabel",
    "segmentation",
    "tabular_classification",
    "tabular_regression",
    "time_series",
]
UCI = "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,"
UCI += "sex,capital-gain,capital-loss,hours-per-week,native-country,class"
CENSUS = "MedInc,HouseAge,AveRooms,AveBedrms,Population,AveOccup,Latitude,Longitude,MedHouseVal"
ADULT, CALIFORNIA = UCI.split(","), CENSUS.split(",")
# Importing PyTorch Geometric scripts a class, which newer PyTorch releases warn about.
SCRIPTING = "ignore:`torch.jit.script` is deprecated"


class Watched(ManifoldMixup):
    """Records the plan and loss of every training step, a batch, and the initial weights."""

    made: ClassVar[list[ManifoldMixup]] = []

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self.steps, self.batches = [], []
        self.weights = [(each, each.detach().clone()) for each in model.parameters()]
        batches = self.batches  # a hook with `self` would be copied with the model

        def keep(module, batch):
            batches[:] = batches or [batch]

        model.register_forward_pre_hook(keep)
        self.made.append(self)

    def wrap(self, criterion):
        wrapped = super().wrap(criterion)
        wrapped.register_forward_hook(self.note)
        return wrapped

    def note(self, _, arguments, loss):
        if loss.requires_grad:
            self.steps.append((self.plan, loss.item()))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Return a function that runs a script with options, and returns its tables and globals."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(manifold_mixup, "ManifoldMixup", Watched)
    monkeypatch.setattr(Watched, "made", [])
    monkeypatch.chdir(tmp_path)

    def call(script, *options):
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        names = runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
        return [table.splitlines() for table in capsys.readouterr().out.split("\n\n")[:-1]], names

    yield call
    forget()


@pytest.fixture
def load_example(monkeypatch):
    """Return a function that imports a file of the examples."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module
    forget()


def forget():
    for module in [name for name in sys.modules if (EXAMPLES / f"{name}.py").is_file()]:
        del sys.modules[module]


def options_for(script, folder):
    """Write the data that a script reads, and return the options for them."""
    if script == "tabular_classification":
        return ["--data", *write_adult(folder)]
    if script == "tabular_regression":
        return ["--data", write_california(folder)]
    if script == "fine_tuning":
        write_fashion_mnist(folder)
        return ["--data", folder]
    return []


def write_adult(folder, count=500):
    """Write files like UCI's: no header, blanks after commas, dots in the second, and gaps."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(dict.fromkeys(ADULT, "Some"), index=range(count))
    for name in ("age", "fnlwgt", "capital-gain", "capital-loss", "hours-per-week"):
        frame[name] = rng.integers(100, size=count)
    frame["education-num"] = rng.integers(1, 17, count)
    frame["education"] = "Level-" + frame["education-num"].astype(str)
    frame["sex"] = rng.choice(["Male", "Female", "?"], count)
    rich = frame["education-num"] + 6 * (frame["sex"] == "Male") > 11
    frame["class"] = np.where(rich, ">50K", "<=50K")
    first, second = folder / "adult.data", folder / "adult.test"
    frame[:300].to_csv(first, header=False, index=False)
    frame[300:].assign(**{"class": frame["class"] + "."}).to_csv(second, header=False, index=False)
    for path in (first, second):
        path.write_text(path.read_text().replace(",", ", "))
    return first, second


def write_california(folder, count=500):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.gamma(2, size=(count, 9)), columns=CALIFORNIA)
    frame["MedHouseVal"] = frame["MedInc"] + 0.1 * rng.normal(size=count)
    frame.to_csv(folder / "california.csv", index=False)
    return folder / "california.csv"


def write_fashion_mnist(folder, count=500):
    """Write files as torchvision unpacks them, with a bright band whose height is the class."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    y = np.arange(count, dtype=np.uint8) % 10
    x = np.random.default_rng(0).integers(100, size=(count, 28, 28), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 6] += 150
    for part in ("train", "t10k"):
        images, labels = raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"
        images.write_bytes(struct.pack(">IIII", 0x803, *x.shape) + x.tobytes())
        labels.write_bytes(struct.pack(">II", 0x801, count) + y.tobytes())


@pytest.mark.filterwarnings(SCRIPTING)
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_mixes_trains_and_prints(run, script, tmp_path):
    epochs = 1 if script == "gan" else 2  # of many batches, so that all layers are drawn
    tables, names = run(script, "--quick", "--epochs", epochs, *options_for(script, tmp_path))
    methods = {title: list(each) for title, each in names["TABLES"].items()}
    check_tables(tables, methods)
    mixing = [
        own["layers"]
        for each in names["TABLES"].values()
        for own in each.values()
        if "layers" in own
    ]
    check_mixing(mixing, rows=None if script == "graphs" else 4)  # a node is no example


def check_tables(tables, methods):
    assert len(tables) == len(methods)
    for (head, _, *rows), (title, names) in zip(tables, methods.items(), strict=True):
        first, *others = names
        pairs = [text for other in others for text in (other, "difference [95 %]")]
        assert head == f"| {' | '.join([f'{title}, 2 seeds', first, *pairs])} |"
        assert rows[-1].startswith("| CPU seconds ↓")
        for row in rows:
            base, *cells = (mean_in(cell) for cell in row.split("|")[2:-1])
            for mean, difference in zip(cells[::2], cells[1::2], strict=True):
                assert difference == pytest.approx(mean - base, abs=0.011)
                assert math.isfinite(mean)


def mean_in(cell):
    return float(re.match(r"[ *]*([+-]?\d+\.\d+) [±\[]", cell)[1])


def check_mixing(mixing, rows):
    """Assert that every mixing method and seed mixes at all its layers, and trains all weights."""
    assert len(Watched.made) == 2 * len(mixing)
    for layers in mixing:
        mine = [each for each in Watched.made if set(each.layers) == set(layers)]
        assert {plan.layer for each in mine for plan, _ in each.steps} == set(layers)
    for each in Watched.made:
        assert all(0 <= plan.lam <= 1 for plan, _ in each.steps)
        assert all(math.isfinite(loss) for _, loss in each.steps)
        assert all((weight != before).any() for weight, before in each.weights)
    most = max(Watched.made, key=lambda each: len(each.layers))
    most.assert_verified(*(part[:rows] for part in most.batches[0]))


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_is_short_and_says_what_the_page_says(script):
    text = (EXAMPLES / f"{script}.py").read_text()
    assert len(text.splitlines()) <= 80
    about = " ".join(text.split('"""')[1].split()).replace("-", "−")
    assert f"examples/{script}.py" in PAGE
    found = re.findall(r"\d+\.\d+ ± \d+\.\d+|[−+]\d+\.\d+ \[.*?\]", about)
    assert len(found) >= 3
    for number in found:
        assert number in PAGE


def test_the_loop_takes_the_steps_that_it_says(load_example):
    """It uses AdamW and one cycle, with every example once per epoch, in a new order."""
    x, y = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Linear(3, 3), nn.Linear(3, 3)
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(1)
    fit = load_example("_training").fit
    fit(ours.eval(), nn.MSELoss(), TensorDataset(x, y), lr=0.1, epochs=3, batch=4)
    assert ours.training
    optimizer = torch.optim.AdamW(theirs.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 9)
    torch.manual_seed(1)
    for _ in range(3):
        order = torch.randperm(10)
        for rows in (order[:4], order[4:8], order[8:]):
            optimizer.zero_grad()
            (theirs(x[rows]) - y[rows]).square().mean().backward()
            optimizer.step()
            schedule.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


# Layers that cannot be mixed, as the examples state


def refusal(model, layer, *batch):
    with pytest.raises((TypeError, ValueError)) as caught:
        ManifoldMixup(model, [layer], example=batch)
    return str(caught.value)


def test_categories_are_mixed_with_the_numbers_where_they_are_embedded(load_example, tmp_path):
    script, shared = load_example("tabular_classification"), load_example("_tabular")
    levels, data, _ = script.load(0, data=write_adult(tmp_path))
    *batch, _ = data[:8]
    net = shared.Net("mlp", levels, data, outputs=2)
    mixup = ManifoldMixup(net, ["input", "tokens"], example=tuple(batch))
    assert mixup.verify(*batch).ok
    (numbers,) = [row for row in find_layers(net, *batch).inputs if row.name == "numbers"]
    assert f"with {numbers.carries[0]}" in PAGE
    outputs = []
    for layer in ("input", "tokens"):
        with mixup.using(MixPlan(layer, torch.tensor(0.3), torch.arange(8).roll(1))):
            outputs.append(net(*batch))
            mixup.target(None, outputs[-1])
    torch.testing.assert_close(*outputs)


def test_skip_connections_around_the_bottleneck_are_mixed_too(load_example):
    script = load_example("segmentation")
    x, _ = script.shapes(4, 0)[:]
    for row in find_layers(script.UNet(), x):
        if "." not in row.name and row.runs == 1 and row.name != "head":
            carried = ", ".join(map(str, row.carries))
            with_it = f"with {carried}" if carried else ""
            seen = f"{row.name:12}  {row.depth:.3f}  {row.shape!s:15}  {with_it}".rstrip()
            assert f"{seen}\n" in PAGE
    assert ManifoldMixup(script.UNet(), script.LAYERS).verify(x).ok


@pytest.mark.filterwarnings(SCRIPTING)
def test_before_the_pooling_a_row_is_no_graph(load_example):
    script = load_example("graphs")
    (batch,) = script.DataLoader(script.graphs(6, 0), batch_size=6)
    table = find_layers(script.Net(), batch.x, batch.edge_index, batch.batch)
    assert [row.name for row in table.cuts] == ["pool", "head.0", "head.1", "head.2", "head"]
    assert table.default == script.TABLES["GIN"]["manifold mixup"]["layers"]
    said = refusal(script.Net(), "encoder", batch.x, batch.edge_index, batch.batch)
    assert "not a row for each of the 6 graphs: nodes and edges have no partners" in said


def test_two_lstms_in_one_module_have_no_place_in_between(load_example):
    script = load_example("time_series")
    x = torch.randn(4, 20, 2)
    rows = {row.name: row for row in find_layers(script.Net(), x)}
    assert rows["first"].mixed == ("0",)
    assert rows["first"].unmixed == ("1.0", "1.1")  # the last states, which nothing reads
    first = nn.LSTM(2, 8, num_layers=2, batch_first=True)
    assert [row.name for row in find_layers(first, x)] == []


# Their data


def test_a_table_is_split_by_seed_and_scored_on_the_same_rows(load_example, tmp_path):
    script, paths = load_example("tabular_classification"), write_adult(tmp_path)
    (levels, *one), (_, *two) = (script.load(seed, data=paths, rows=100) for seed in (0, 1))
    validation = script.load(0, data=paths, rows=100, split="validation")[2]
    assert [len(part) for part in (*one, *two, validation)] == [100, 100, 100, 100, 100]
    assert torch.equal(one[1].tensors[0][:, 1], two[1].tensors[0][:, 1]) is False  # scaled anew
    assert torch.equal(one[1].tensors[1], two[1].tensors[1])
    assert not torch.equal(one[0].tensors[1], two[0].tensors[1])
    assert not torch.equal(one[1].tensors[1], validation.tensors[1])
    numbers, categories, y = one[0].tensors
    assert (numbers.shape, categories.shape, y.dtype) == ((100, 6), (100, 8), torch.int64)
    assert 0 <= int(categories.min()) <= int(categories.max()) < levels
    columns = [set(column.tolist()) for column in categories.T]
    assert sum(map(len, columns)) == len(set.union(*columns))  # no two columns share a category


def test_a_table_of_openml_reads_as_the_files_of_uci(load_example, tmp_path, monkeypatch):
    script, paths = load_example("tabular_classification"), write_adult(tmp_path)
    read = {"names": ADULT, "skipinitialspace": True, "na_values": "?"}
    frame = pd.concat([pd.read_csv(path, **read) for path in paths], ignore_index=True)
    frame["class"] = frame["class"].str.removesuffix(".")
    words = [name for name in frame if name not in frame.select_dtypes("number")]
    downloaded = Bunch(frame=frame.astype(dict.fromkeys(words, "category")))
    monkeypatch.setattr(script, "fetch_openml", lambda name, version, as_frame: downloaded)
    (levels, *ours), (theirs, *parts) = script.load(0, data=paths), script.load(0)
    assert levels == theirs
    for one, other in zip(ours, parts, strict=True):
        assert all(map(torch.equal, one.tensors, other.tensors))


def test_the_table_of_scikit_learn_reads_as_a_file_of_it(load_example, tmp_path, monkeypatch):
    script, path = load_example("tabular_regression"), write_california(tmp_path)
    downloaded = Bunch(frame=pd.read_csv(path))
    monkeypatch.setattr(script, "fetch_california_housing", lambda as_frame: downloaded)
    (levels, *ours), (_, *parts) = script.load(0, data=[path]), script.load(0)
    assert levels == 0
    for one, other in zip(ours, parts, strict=True):
        assert all(map(torch.equal, one.tensors, other.tensors))
    assert ours[0].tensors[1].shape == (300, 1)


def test_a_missing_table_says_where_it_comes_from(load_example):
    with pytest.raises(FileNotFoundError, match=r"no file adult\.data.*UCI's Adult.*Without"):
        load_example("tabular_classification").load(0, data=["adult.data"])
    with pytest.raises(FileNotFoundError, match=r"fetch_california_housing.*Without --data"):
        load_example("tabular_regression").load(0, data=["houses.csv"])


@pytest.mark.skipif(not REAL.is_dir(), reason="no copy of Adult at hand")
def test_the_real_table_has_its_rows_and_categories(load_example):
    paths = [REAL / "adult-train.csv", REAL / "adult-test.csv"]
    levels, data, scored = load_example("tabular_classification").load(0, data=paths)
    assert (len(data), len(scored)) == (4000, 48_842 // 5)
    assert levels == 99 + 8  # and one for missing values in each column
    assert scored.tensors[2].double().mean() == pytest.approx(0.2393, abs=0.01)


@pytest.mark.parametrize("script", ["audio", "multilabel", "segmentation", "time_series"])
def test_data_are_drawn_by_the_seed_and_scored_on_others(load_example, script):
    load = load_example(script).load
    one, again, other = (load(seed, rows=20, scored=20) for seed in (0, 0, 1))
    assert torch.equal(one[0].tensors[0], again[0].tensors[0])
    assert not torch.equal(one[0].tensors[0], other[0].tensors[0])
    assert torch.equal(one[1].tensors[0], other[1].tensors[0])
    validation = load(0, rows=20, scored=20, split="validation")
    assert torch.equal(one[0].tensors[0], validation[0].tensors[0])
    assert not torch.equal(one[1].tensors[0], validation[1].tensors[0])


def test_shapes_have_rims_without_a_label(load_example):
    x, y = load_example("_shapes").shapes(50, 0)[:]
    assert x.shape == (50, 1, 32, 32)
    assert set(y.unique().tolist()) == {0, 1, 2, 3, 255}
    light = x[:, 0]
    assert abs(light[y == 0].mean()) < 0.05 < 0.4 < light[(y > 0) & (y < 4)].mean()


def test_the_overlap_is_counted_by_hand(load_example):
    y = torch.tensor([[0, 0, 1, 1], [2, 3, 255, 255]])
    found = torch.tensor([[0, 1, 1, 1], [2, 0, 3, 3]])
    # Background 1 of 3, circles 2 of 3, squares 1 of 1, triangles 0 of 1; the edge is ignored.
    assert load_example("segmentation").mean_iou(found, y) == pytest.approx((1 / 3 + 2 / 3 + 1) / 4)


def test_a_picture_has_the_digits_that_its_labels_say(load_example):
    x, y = load_example("multilabel").compose("train", 30, 0)[:]
    assert x.shape == (30, 1, 16, 16)
    assert ((y.sum(dim=1) >= 1) & (y.sum(dim=1) <= 4)).all()
    assert 0 <= x.min() < x.max() == 1


# Where the weights come from


def test_weights_of_a_file_fit_another_head_and_black_and_white(load_example, tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("test_resnet", num_classes=100)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    create = load_example("fine_tuning").create
    tuned = create("test_resnet", str(tmp_path / "weights.pth")).state_dict()
    assert tuned["fc.weight"].shape == (10, 96)
    before = source.state_dict()
    assert torch.equal(tuned["layer2.0.conv1.weight"], before["layer2.0.conv1.weight"])
    summed = before["conv1.0.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(tuned["conv1.0.weight"], summed)


def test_pretrained_weights_are_asked_of_timm(load_example, monkeypatch):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **settings: asked.append(settings))
    create = load_example("fine_tuning").create
    create("test_resnet", "timm")
    create("test_resnet", "none")
    assert [settings["pretrained"] for settings in asked] == [True, False]


# The table


def load_numbers(seed, *, rows: int = 3):
    return [seed], rows


def train_numbers(data, rows, *, lr: float, layers: tuple = (), alpha: float = 1.0):
    noise = torch.rand(()).item()
    return {"score": data[0] ** 2 * lr + rows, "error %": noise + len(layers) * alpha + data[0]}


@pytest.fixture
def table(load_example, monkeypatch, capsys):
    """Return a function that prints the table of `train_numbers`, and returns its rows."""
    tables = {"toy": {"plain": {"lr": 1.0}, "mixed": {"lr": 2.0, "layers": ["a"], "alpha": 0.5}}}
    compare = load_example("_table").compare

    def call(*options):
        monkeypatch.setattr(sys, "argv", ["toy", *options])
        compare("About.", load_numbers, train_numbers, tables, quick={"rows": 1})
        head, _, *rows, _ = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]

    return call


def test_the_table_has_means_deviations_and_paired_differences(table):
    head, score, error, seconds = table()
    assert head == ["toy, 5 seeds", "plain", "mixed", "difference [95 %]"]
    one = np.arange(5) ** 2.0
    low, high = scipy.stats.ttest_rel(2 * one, one).confidence_interval()
    spread = f"{np.mean(one) + 3:.3f} ± {np.std(one, ddof=1):.3f}"
    assert score == ["score", spread, "15.000 ± 13.191", f"+6.000 [{low:+.3f}, {high:+.3f}]"]
    # Both have the same random numbers for a seed, so only the difference remains.
    assert error[3] == "**+0.50 [+0.50, +0.50]**"
    assert seconds[0] == "CPU seconds ↓"


def test_options_take_the_place_of_settings(table):
    assert table("--seeds", "3", "--first-seed", "2")[1][1] == "12.667 ± 6.028"
    assert table("--rows", "0", "--lr", "0")[1][1:3] == ["0.000 ± 0.000"] * 2
    assert table("--layers", "a", "b", "--alpha", "3")[2][3] == "+0.00 [+0.00, +0.00]"
    head, score, *_ = table("--quick")
    assert (head[0], score[1]) == ("toy, 2 seeds", "1.500 ± 0.707")


def test_one_seed_has_no_interval(table):
    assert table("--seeds", "1")[1][1:] == ["3.000", "3.000", "+0.000 [-inf, +inf]"]
