"""Examples of the registered tasks: no row serves two purposes, and every seed draws its own."""

from dataclasses import replace

import pytest
import torch

from manifold_mixup.lab.candidates import draws, texts
from manifold_mixup.lab.data import Data


@pytest.fixture(scope="module")
def file():
    """A data set whose inputs are the numbers of its rows."""
    x = torch.arange(400.0)[:, None]
    return Data("rows", x, torch.arange(400) % 4, x[:0], x[:0, 0].long(), 4, 0.0, "")


@pytest.fixture(scope="module")
def parts():
    return draws.split("some", torch.arange(50, 400), develop=100, choose=40, test=60)


def test_every_row_has_one_purpose(parts):
    found = [getattr(part, kind) for part in parts.values() for kind in ("train", "scored")]
    assert [len(rows) for rows in found] == [100, 40, 150, 60]
    assert torch.equal(torch.cat(found).sort().values, torch.arange(50, 400))


def test_a_split_depends_on_the_task_alone(parts):
    again, other = (
        draws.split(name, torch.arange(50, 400), develop=100, choose=40, test=60)
        for name in ("some", "another")
    )
    assert torch.equal(again["development"].train, parts["development"].train)
    assert not torch.equal(other["development"].train, parts["development"].train)


def test_a_seed_draws_its_own_rows_and_all_share_the_scored_ones(file, parts):
    part = parts["confirmation"]
    first, second = (draws.drawn(file, part, seed, count=30) for seed in (0, 1))
    assert set(first.x.flatten().tolist()) <= set(part.train.tolist())
    assert not torch.equal(first.x, second.x)
    assert torch.equal(first.x_test.flatten().long(), part.scored)
    assert torch.equal(first.y, first.x.flatten().long() % 4)


def test_a_draw_of_classes_numbers_them_anew(file, parts):
    classes = torch.tensor([3, 1])
    found = draws.drawn_classes(file, parts["confirmation"], 0, classes=classes, count=5, tested=2)
    assert torch.equal(classes[found.y], found.x.flatten().long() % 4)
    assert torch.equal(classes[found.y_test], found.x_test.flatten().long() % 4)
    assert found.y.bincount().tolist() == [5, 5]
    assert found.y_test.bincount().tolist() == [2, 2]
    assert found.classes == 2


@pytest.mark.parametrize("draw", [draws.two_spirals])
def test_generated_draws_differ_by_purpose_and_seed(tmp_path, draw):
    found = [draw(tmp_path, purpose, s) for purpose in draws._FIRST for s in (0, 1)]
    assert len({float(data.x.sum()) for data in found}) == 4
    assert torch.equal(found[0].x, draw(tmp_path, "development", 0).x)


def test_photos(monkeypatch, tmp_path):
    x = torch.zeros(50_000, 1, 2, 2, dtype=torch.uint8)  # small images: only rows matter here
    file = Data(
        "CIFAR-100", x, torch.arange(50_000) % 100, x[:1], x[:1, 0, 0, 0].long(), 100, 1, ""
    )
    monkeypatch.setattr(draws, "_cifar_100", lambda _: file)
    found = draws.photos(tmp_path, "confirmation", 0, per_class=10)
    assert found.x.shape == (200, 1, 80, 80)
    assert found.y_test.bincount().tolist() == [40] * 20
    assert (found.classes, found.eps, found.mean) == (20, 0.0, (0.5, 0.5, 0.5))


def test_enlarged_pixels_stay_pixels():
    x = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    found = draws.enlarged(x, 80)
    assert (found.shape, found.dtype) == ((2, 3, 80, 80), torch.uint8)
    flat = draws.enlarged(torch.full_like(x, 200), 80)
    assert torch.equal(flat, torch.full_like(flat, 200))


def test_houses_are_standardised_by_their_draw(monkeypatch, tmp_path):
    x = torch.randn(16_512, 3) * torch.tensor([1.0, 5.0, 0.1])
    file = Data("houses", x, x[:, 0], x[:1], x[:1, 0], 0, 0.0, "")
    monkeypatch.setattr(draws, "_california", lambda _: file)
    found = draws.houses(tmp_path, "confirmation", 3)
    assert len(found.x) == 1000
    torch.testing.assert_close(torch.tensor(found.mean), found.x.mean(0))
    torch.testing.assert_close(torch.tensor(found.std), found.x.std(0))


def test_questions(monkeypatch, tmp_path):
    """The last tenth of the file, which was looked at before, is never trained or confirmed on."""
    x = torch.arange(1, 5453)[:, None]
    file = Data("TREC", x, x[:, 0] % 6, x[:0], x[:0, 0], 6, 0.0, "")
    monkeypatch.setattr(draws, "_trec", lambda _: file)
    found = draws.questions(tmp_path, "confirmation", 0, count=100)
    tried = draws.questions(tmp_path, "development", 0, count=100)
    assert torch.equal(tried.x_test.flatten(), x[-545:].flatten())
    for rows in (found.x, found.x_test, tried.x):
        assert int(rows.max()) <= 5452 - 545
    assert (len(found.x), len(found.x_test)) == (100, 500)


def test_trec_from_its_file(monkeypatch, tmp_path):
    transformers = pytest.importorskip("transformers")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "what": 5, "is": 6}
    saved = transformers.BertTokenizerFast(vocab=vocabulary)
    saved.save_pretrained(tmp_path / "tokenizer")
    monkeypatch.setattr(texts, "ENCODER", str(tmp_path / "tokenizer"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / texts.FILE).write_text("2 What is what\n0 What\n")
    found = texts.trec(tmp_path)
    assert found.x.tolist() == [[2, 5, 6, 5, 3], [2, 5, 3, 0, 0]]
    assert found.y.tolist() == [2, 0]
    assert (found.classes, found.tokens) == (3, True)


def test_a_file_of_another_form(tmp_path):
    (tmp_path / texts.FILE).write_text("2 What is what\nWhat\n")
    with pytest.raises(ValueError, match=r"line 2 of .* is 'What'\. Expected 'LABEL"):
        texts.trec(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file TREC\.train\.all in"):
        texts.trec(tmp_path / "elsewhere")


def test_an_image_file_is_not_changed_by_a_draw(file, parts):
    before = replace(file, x=file.x.clone())
    draws.drawn(file, parts["development"], 0, count=3).x.zero_()
    assert torch.equal(file.x, before.x)
