"""Inputs that appear after the first batch: what forward does with them is checked as well."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup, MixPlan

Y = torch.tensor([0, 2, 1, 2])
LAM, PERM = 0.25, torch.tensor([1, 2, 3, 0])


class Fused(nn.Module):
    """Images, with or without texts and further features, joined in a way."""

    def __init__(self, join):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(5, 6), nn.Linear(7, 6)
        self.head, self.join = nn.Linear(6, 3), join

    def forward(self, image, text=None, *, scale=None, more=()):
        h = self.image(image).tanh()
        if text is not None:
            h = self.join(h, self.text(text))
        if scale is not None:
            h = h * scale
        return self.head(sum(more, h))


def added(h, text):
    return h + text


def batch(*names):
    made = torch.Generator().manual_seed(len(names))
    sizes = {"image": 5, "text": 7, "scale": 6}
    return {name: torch.randn(4, sizes[name], generator=made) for name in ("image", *names)}


def test_a_branch_that_the_first_batch_does_not_take_is_mixed_too():
    model = Fused(added)
    with ManifoldMixup(model, ["image"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        criterion(model(**batch()), Y).backward()
        given = batch("text")
        with mixup.using(MixPlan("image", LAM, PERM)):
            loss = criterion(model(**given), Y)
    h, text = model.image(given["image"]), model.text(given["text"])
    h, text = (LAM * each + (1 - LAM) * each[PERM] for each in (h, text))
    by_hand = model.head(h.tanh() + text)
    ends = cross_entropy(by_hand, Y), cross_entropy(by_hand, Y[PERM])
    torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])


def test_one_that_goes_around_the_layer_is_refused_and_nothing_is_drawn():
    model = Fused(added)
    with ManifoldMixup(model, ["image"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        criterion(model(**batch()), Y).backward()
        before = mixup.state_dict()
        with pytest.raises(ValueError, match="'image' is bypassed: the input 'scale' is still"):
            model(**batch("scale"))
        assert mixup.state_dict() == before
        criterion(model(**batch()), Y).backward()  # what was right still is


def test_it_is_checked_once_for_each_new_input(monkeypatch):
    from manifold_mixup._checks import Checks

    looks, first_batch = [], Checks.first_batch
    monkeypatch.setattr(
        Checks, "first_batch", lambda *given: (looks.append(given), first_batch(*given))[1]
    )
    model = Fused(added)
    with ManifoldMixup(model, ["head"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for names in ((), ("text",), (), ("text",), ("text", "scale"), ("scale",)):
            criterion(model(**batch(*names)), Y).backward()
        assert len(looks) == 3
        for count in (2, 5, 3):  # a list whose length changes
            more = [torch.randn(4, 6) for _ in range(count)]
            criterion(model(**batch(), more=more), Y).backward()
        assert len(looks) == 4


def test_an_example_without_it_has_not_seen_it():
    model = Fused(added)
    refused = pytest.raises(ValueError, match="the input 'scale' is still read after it")
    with ManifoldMixup(model, ["image"], example=batch(), seed=0), refused:
        model(**batch("scale"))


def test_a_mask_that_comes_later_is_refused_unless_it_is_mixed():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x, mask=None):
            h = self.embed(x)
            return self.head(h.mean(1) if mask is None else (h * mask[..., None]).sum(1))

    model, x = Masked(), torch.randn(4, 3, 5)
    with ManifoldMixup(model, ["embed"], seed=0) as mixup:
        mixup.wrap(nn.CrossEntropyLoss())(model(x), Y).backward()
        with pytest.raises(ValueError, match="'mask' is still read after it"):
            model(x, torch.ones(4, 3))


def test_without_a_check_nothing_is_looked_at():
    model = Fused(added)
    with ManifoldMixup(model, ["image"], check=False, seed=0) as mixup:
        for names in ((), ("scale",)):
            mixup.wrap(nn.CrossEntropyLoss())(model(**batch(*names)), Y).backward()


def test_inputs_that_never_stay_the_same_are_warned_of_once():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, batch):
            return self.head(sum(batch.values()))

    model = Named()
    with ManifoldMixup(model, ["head"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for step in range(20):
                criterion(model({f"step {step}": torch.randn(4, 5)}), Y).backward()
        (told,) = [one for one in told if "that none before had" in str(one.message)]
        assert "'batch.step 16' that none before had. 16 batches" in str(told.message)


class Conditioned(nn.Module):
    """A network with two conditions, each of which may be left out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(7, 6), nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x, cond=None, other=None):
        h = self.a(x).tanh()
        for given, layer in ((cond, self.b), (other, self.c)):
            h = h if given is None else h + layer(given)
        return self.head(h.tanh())


def test_what_one_kind_of_batch_showed_holds_after_another():
    model = Conditioned()
    made = torch.Generator().manual_seed(0)
    x, cond, other = (torch.randn(4, size, generator=made) for size in (5, 7, 4))
    plan = MixPlan("a", LAM, PERM)
    with ManifoldMixup(model, ["a"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for given in ({"cond": cond}, {"other": other}, {"cond": cond}, {}, {"other": other}):
            with mixup.using(plan):
                loss = criterion(model(x, **given), Y)
            h = model.a(x)
            h = (LAM * h + (1 - LAM) * h[PERM]).tanh()
            for name, layer in (("cond", model.b), ("other", model.c)):
                if name in given:
                    mixed = LAM * given[name] + (1 - LAM) * given[name][PERM]
                    h = h + layer(mixed)
            by_hand = model.head(h.tanh())
            ends = cross_entropy(by_hand, Y), cross_entropy(by_hand, Y[PERM])
            torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])


class Either(nn.Module):
    """Images or texts, whose layers run in another order than they are named."""

    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(5, 6), nn.Linear(7, 6)
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, image=None, text=None):
        h = self.image(image) if text is None else self.text(text)
        layers = (self.one, self.two) if text is None else (self.two, self.one)
        for layer in layers:
            h = layer(h).tanh()
        return self.head(h)


def test_layers_that_run_for_one_kind_only_are_skipped_and_plans_stay_as_they_were():
    model = Either()
    with ManifoldMixup(model, ["one", "two", "image"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        criterion(model(image=torch.randn(4, 5)), Y).backward()
        order = mixup.layers
        for step in range(30):
            given = {"text": torch.randn(4, 7)} if step % 2 else {"image": torch.randn(4, 5)}
            criterion(model(**given), Y).backward()
        assert mixup.layers == order
        assert mixup.skipped > 0
