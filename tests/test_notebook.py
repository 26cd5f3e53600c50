"""The display in notebooks, and the progress line."""

import io
import sys
import time
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan, find_layers
from manifold_mixup._progress import watched

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


class Table(HTMLParser):
    """The caption and the cells of an HTML table, whose tags must all be closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.caption, self.rows = [], "", []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data


class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(4, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.get_submodule(self.name)(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Named('<b>&"body"')


def test_the_table_of_layers_has_the_rows_of_its_text(model):
    layers = find_layers(model, X)
    table = Table(layers._repr_html_())
    assert table.rows[0] == ["", "layer", "depth", "shape", "why not, or what is mixed too"]
    assert [row[1] for row in table.rows[1:]] == ["input:x", *(row.name for row in layers)]
    text = str(layers).splitlines()
    for row, line in zip(table.rows, text, strict=False):  # the text has a legend below the table
        assert "".join(row).replace(" ", "") == line.replace(" ", "")
    assert table.caption == "Named. *: the automatic choice, +: can also be mixed"
    assert repr(layers).startswith("<2 of 2 layers of Named can be mixed: ")


def test_the_report_of_a_proof(model):
    mixup = ManifoldMixup(model, ["input", model.name])
    report = mixup.verify(X)
    table = Table(report._repr_html_())
    assert repr(report) == "<2 of 2 layers proven>"
    assert table.caption == "2 of 2 layers proven"
    assert [row[:2] for row in table.rows[1:]] == [["input", "proven"], [model.name, "proven"]]
    assert all(float(row[3]) > float(row[2]) for row in table.rows[1:])
    assert str(report).splitlines()[0].startswith("input")


@pytest.mark.parametrize("lam", [torch.tensor(0.25), torch.linspace(0, 1, 12)])
def test_mixed_targets_show_who_is_mixed_with_whom(lam):
    y = {"kind": torch.arange(12), "box": torch.zeros(12, 4)}
    perm = torch.arange(12).roll(1)
    mixed = MixedTarget(y, MixPlan("body", lam, perm))
    table = Table(mixed._repr_html_())
    assert table.rows[0] == ["example", "its target", "λ", "partner", "its target"]
    assert len(table.rows) == 1 + 8
    share = lam if lam.ndim == 0 else lam[3]
    assert table.rows[4] == [
        "3",
        "kind: 3, box: shape (4,)",
        f"{share:.3f}",
        "2",
        "kind: 2, box: shape (4,)",
    ]
    assert repr(mixed) == f"<MixedTarget of {mixed.plan!r}>"


def test_targets_that_are_not_mixed():
    mixed = MixedTarget(Y, None)
    assert repr(mixed) == "<MixedTarget, not mixed>"
    assert Table(mixed._repr_html_()).rows[1:] == []


def test_an_attachment_says_how_it_mixes(model):
    mixup = ManifoldMixup(model, ["input"], alpha=0.5, p=0.25, seed=7)
    assert repr(mixup) == "ManifoldMixup(layers=['input'], alpha=0.5, p=0.25, seed=7, step=0)"

    def warm_up(step):
        return None if step < 2 else 1.0

    mixup = ManifoldMixup(model, ["input"], alpha=warm_up, per_sample=True, seed=7, replace=True)
    model(X)
    expected = "alpha=warm_up, p=1.0, per_sample=True, seed=7, step=1)"
    assert repr(mixup) == f"ManifoldMixup(layers=['input'], {expected}"


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock on which every layer takes a second and a half."""
    now = iter(range(0, 1000, 3))
    monkeypatch.setattr(time, "monotonic", lambda: next(now) / 2)


def test_long_work_shows_where_it_is_and_leaves_no_line(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(watched(["layer1", "a", "b"], doing="proving")) == ["layer1", "a", "b"]
    assert sys.stderr.getvalue() == "\rproving a, 2 of 3\rproving b, 3 of 3\r                 \r"


@pytest.mark.parametrize("why", ["no terminal", "turned off"])
def test_no_progress_where_nobody_watches(why, clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO() if why == "no terminal" else Terminal())
    list(watched("abc", doing="proving", show=why != "turned off"))
    assert sys.stderr.getvalue() == ""


def test_a_notebook_watches(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    list(watched("abc", doing="proving"))
    assert "proving c, 3 of 3" in sys.stderr.getvalue()


def test_verify_hands_it_on(model, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "manifold_mixup._proof.prove.watched",
        lambda names, *, doing, show: shown.append(show) or names,
    )
    mixup = ManifoldMixup(model, ["input"])
    mixup.verify(X)
    mixup.verify(X, progress=False)
    mixup.assert_verified(X, progress=False)
    assert shown == [True, False, False]
