"""A table of the paper from end to end, on a few random pictures."""

import contextlib
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from lab_runs import write_images
from manifold_mixup.lab import cli
from manifold_mixup.lab.commands.reproduce import Options as Reproduce
from manifold_mixup.lab.commands.reproduce import prepare
from manifold_mixup.lab.commands.reproduce import run as reproduce
from manifold_mixup.lab.evaluate import attacks
from manifold_mixup.lab.runs.folder import folder_name
from manifold_mixup.lab.runs.result import read_run
from manifold_mixup.lab.training import loop

pytestmark = pytest.mark.filterwarnings("ignore:.*not have enough:UserWarning")


def smoke(images, table, **fields) -> Reproduce:
    options = Reproduce(table, scale="smoke", seeds=2, workers=1, root=images, out=images / "out")
    return replace(options, **fields)


def written(options):
    return json.loads((options.out / f"{options.table}.json").read_text())


@pytest.fixture
def short_attacks(monkeypatch):
    """Let attacks of 200 steps, each of a second for each checkpoint, end after two."""
    monkeypatch.setattr(attacks, "range", lambda steps: range(min(steps, 2)), raising=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of images that several tests share, with what they train."""
    folder = tmp_path_factory.mktemp("pictures")
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def blocked(pictures):
    """The options of a finished table, and what the command printed."""
    options, shown = smoke(pictures, "gradient-block"), io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert reproduce(prepare(options))
    return options, shown.getvalue()


def test_a_table_end_to_end(pictures, blocked):
    options, shown = blocked
    content = written(options)
    assert content["complete"]
    assert content["title"].endswith(
        "SCALED, not the paper's protocol: 1 epoch, width 2, 100 training examples, 20 test "
        "examples"
    )
    assert [row["label"] for row in content["rows"]] == [
        "no mixup",
        "input mixup α=1",
        "manifold mixup α=2",
        "manifold mixup α=2, gradient blocked",
    ]
    for row in content["rows"]:
        assert [run["run"]["seed"] for run in row["runs"]] == [0, 1]
        errors = [run["last"]["error"] for run in row["runs"]]
        assert row["ours"]["last"]["error"]["spread"]["mean"] == pytest.approx(sum(errors) / 2)
    assert content["rows"][3]["paper"] == {"error": [4.33]}
    page = (options.out / "gradient-block.md").read_text()
    assert "SCALED" in page
    assert "8 runs" in page
    assert str(pictures) not in page + (options.out / "gradient-block.json").read_text()
    assert "gradient" in shown


def test_what_is_finished_is_reused_by_other_tables_too(pictures, blocked, monkeypatch):
    options, _ = blocked
    first = written(options)
    monkeypatch.setattr(loop, "Job", None)  # training is no longer possible
    knn = smoke(pictures, "knn")
    assert reproduce(prepare(knn))
    for row, before in zip(written(knn)["rows"], first["rows"], strict=False):
        assert [run["weights"] for run in row["runs"]] == [run["weights"] for run in before["runs"]]


@pytest.mark.usefixtures("short_attacks")
@pytest.mark.parametrize("table", ["table-4", "knn", "outliers"])
def test_batteries_are_run_on_the_checkpoints(images, table):
    options = smoke(images, table, seeds=1)
    assert reproduce(prepare(options))
    require_batteries(options)


def require_batteries(options):
    for row in written(options)["rows"]:
        for cell in (*row["ours"]["last"].values(), *row["ours"]["best"].values()):
            assert 0 <= cell["spread"]["mean"] <= 100
        (run,) = row["runs"]
        assert run["evaluation"]["last"].keys() == run["evaluation"]["best"].keys()


@pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.thorough])]
)
def test_a_figure_is_a_table_and_a_picture(images, capsys, workers):
    options = smoke(images, "figure-2", seeds=1, rows=("noise", "manifold"), workers=workers)
    assert reproduce(prepare(options))
    assert [row["label"] for row in written(options)["rows"]] == [
        "no mixup",
        "noise 0.1",
        "manifold mixup α=2",
    ]
    for row in written(options)["rows"]:
        for name in ("confident", "within", "second"):
            assert 0 <= row["ours"]["last"][name]["spread"]["mean"] <= 100
    assert (options.out / "figure-2.png").read_bytes()[:4] == b"\x89PNG"
    svg = (options.out / "figure-2.svg").read_bytes()
    assert b"<svg" in svg
    assert len(svg) < 1_000_000
    assert "figure-2.svg" in capsys.readouterr().out


def test_the_training_loss_by_layer(images):
    options = smoke(images, "figure-6", seeds=1, rows=("at layer2", "blocked"))
    assert reproduce(prepare(options))
    rows = written(options)["rows"]
    assert [row["label"] for row in rows][1:] == [
        "manifold mixup α=2 at layer2",
        "manifold mixup α=2, gradient blocked",
    ]
    for row in rows:
        (folder,) = (images / "out" / "runs").glob(f"*-{folder_of(row)}")
        epoch = json.loads((folder / "metrics.jsonl").read_text())  # the only line
        for when in ("last", "best"):
            assert row["ours"][when]["train_loss"]["spread"]["mean"] == epoch["train_loss"]
    assert (options.out / "figure-6.svg").exists()


def folder_of(row):
    """Return the end of the folder name of a row's run."""
    return folder_name(read_run(row["runs"][0]["run"])).rpartition("-")[2]


def write_idx(path, array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


@pytest.fixture
def digits(tmp_path):
    """A folder where MNIST has a few random pictures."""
    raw, draw = tmp_path / "MNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for name, count in (("train", 200), ("t10k", 600)):
        pixels = draw.integers(256, size=(count, 28, 28), dtype="u1")
        write_idx(raw / f"{name}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(count, dtype="u1") % 10)
    return tmp_path


def test_states_of_two_units(digits):
    assert reproduce(prepare(smoke(digits, "figure-5", seeds=1, rows=("manifold",))))
    options = smoke(digits, "figure-5", seeds=1)
    rows = written(options)["rows"]
    assert [row["label"] for row in rows] == [
        f"digits 0 to {last}, {method}"
        for last in (4, 9)
        for method in ("no mixup", "manifold mixup α=0.5")
    ]
    assert (options.out / "figure-5.png").read_bytes()[:4] == b"\x89PNG"


def test_spectra_of_mnist_networks(digits):
    options = smoke(digits, "spectra", seeds=1, rows=("12 units after three layers, manifold",))
    assert reproduce(prepare(options))
    plain, mixed = written(options)["rows"]
    assert (plain["paper"], mixed["paper"]) == ({"s1": [50.08]}, {"s1": [43.44]})
    for row in (plain, mixed):
        cells = {name: cell["spread"]["mean"] for name, cell in row["ours"]["last"].items()}
        share = 100 * cells["s1"] / (cells["s1"] + cells["rest"])
        assert cells["s1_share"] == pytest.approx(share, rel=0.05)  # it is a mean of ratios
        assert 0 < cells["outside"] < 100
    assert (options.out / "spectra.png").read_bytes()[:4] == b"\x89PNG"


def test_what_takes_minutes_as_it_is_a_laptop_need_not_shorten(images):
    assert str(prepare(smoke(images, "figure-1", scale="laptop")).scale) == ""


@pytest.mark.usefixtures("short_attacks")
def test_every_attack_states_its_eps_and_space(pictures):
    options = smoke(pictures, "table-7", seeds=1, rows=("cifar-10, no mixup",))
    assert reproduce(prepare(options))
    require_batteries(options)
    (run,) = written(options)["rows"][0]["runs"]
    stated = {row["name"]: row for row in run["evaluation"]["last"]["attacks"]}
    assert stated["FGSM of the authors"]["eps"] == 0.03
    assert stated["FGSM of the authors"]["space"] == "standardised units"
    assert stated["FGSM"]["eps"] == pytest.approx(8 / 255)
    assert stated["FGSM"]["space"] == "pixel space [0, 1]"
    assert stated["PGD-200 unbounded"]["eps"] is None


ADVERSARIAL = "cifar-10, adversarial training, PGD-7"


def test_adversarial_training_is_a_row(images):
    chosen = prepare(smoke(images, "table-7", seeds=1, rows=("cifar-10, adversarial",)))
    plain, hardened = chosen.table.rows
    assert (hardened.label, hardened.paper["fgsm"]) == (ADVERSARIAL, (56.1,))
    assert (hardened.run.pgd_steps, hardened.run.pgd_eps) == (7, 8 / 255)
    assert plain.run.pgd_steps == 0


@pytest.mark.thorough  # its attacks take seconds; other tests train such a run
def test_adversarial_training_is_a_row_that_is_trained(images):
    options = smoke(images, "table-7", seeds=1, rows=("cifar-10, adversarial",))
    assert reproduce(prepare(options))
    plain, hardened = written(options)["rows"]
    assert hardened["label"] == ADVERSARIAL
    assert hardened["paper"] == {"fgsm": [56.1]}
    (run,) = hardened["runs"]
    assert (run["run"]["pgd_steps"], run["run"]["pgd_eps"]) == (7, 8 / 255)
    assert run["weights"] != plain["runs"][0]["weights"]


def test_rows_are_chosen_with_what_they_are_compared_with(images):
    chosen = prepare(smoke(images, "table-1a", rows=("resnet18, manifold",)))
    assert [row.label for row in chosen.table.rows] == [
        "preact-resnet18, no mixup",
        "preact-resnet18, manifold mixup α=2",
    ]
    assert len(chosen.runs) == 4


def test_options_go_before_the_scale_and_into_every_run(images):
    options = smoke(images, "knn", epochs=2, width=4, lr=0.5, precision="bf16", channels_last=True)
    prepared = prepare(options)
    assert {(run.epochs, run.width, run.examples) for run in prepared.runs} == {(2, 4, 100)}
    assert {run.lr for run in prepared.runs} == {0.5}
    assert {(run.precision, run.channels_last) for run in prepared.runs} == {("bf16", True)}
    assert "2 epochs, width 4" in str(prepared.scale)


def test_ctrl_c_leaves_a_table_of_what_there_is(images, monkeypatch, capsys):
    options = smoke(images, "knn", seeds=1)
    whole = loop.train
    seen = []

    def interrupted(run, *args, **kwargs):
        seen.append(run)
        if len(seen) == 2:
            raise loop.Stopped
        return whole(run, *args, **kwargs)

    monkeypatch.setattr("manifold_mixup.lab.launch.processes.train", interrupted)
    assert reproduce(prepare(options)) is False
    assert [len(row["runs"]) for row in written(options)["rows"]] == [1, 0, 0]
    assert "NOT COMPLETE" in (options.out / "knn.md").read_text()
    assert "1 of 3 runs were finished" in " ".join(capsys.readouterr().out.split())
    monkeypatch.undo()
    assert reproduce(prepare(options))


BAD = {
    "an unknown table": ({"table": "tabel-1a"}, "no table 'tabel-1a'. Did you mean 'table-1a'?"),
    "an unknown scale": ({"scale": "lapptop"}, "no scale 'lapptop'. Did you mean 'laptop'?"),
    "no such row": ({"rows": ("vgg",)}, "no row label of knn contains 'vgg'. Rows: no mixup; "),
    "no learning rate": ({"lr": 0.0}, "--lr is 0. Expected a finite number above 0."),
    "no seeds": ({"seeds": 0}, "--seeds is 0. Expected 1 or more."),
    "a negative share of a GPU": ({"gpus": -1.0}, "--gpus is -1.0. Expected 0 or more."),
    "too many examples": (
        {"examples": 999},
        "999 training examples were requested, but CIFAR-10 has",
    ),
    "a missing device": ({"device": "cudda"}, "cannot use device 'cudda'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_raise_before_anything_trains(images, case):
    fields, text = BAD[case]
    with pytest.raises(ValueError, match=re.escape(text)):
        prepare(smoke(images, **({"table": "knn"} | fields)))
    assert not (images / "out" / "runs").exists()


def test_the_command(images, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["reproduce", "no-table", "--out", str(images / "out")])
    assert stop.value.code == 2
    assert "error: no table 'no-table'" in capsys.readouterr().err
